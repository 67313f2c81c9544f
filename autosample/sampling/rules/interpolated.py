"""Real-valued offsets, learned through interpolation: DFSNet (Yang et al. 2020, section 3.3) and NES's sampler (Zhou et
al. 2020, eq. 4)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.sampling.rules.base import Lattice, RuleOptions
from autosample.sampling.rules.learned import LearnedOffsets, LearnedOptions
from autosample.sampling.windows import Placement


@dataclass(frozen=True, kw_only=True)
class InterpolatedOptions(LearnedOptions):
    """Settings of the rule, besides those of every learned rule.

    Attributes:
        unit: What the parameter is: an offset in `positions` [rows], or DFSNet's fraction through a `sigmoid`.
    """

    unit: Literal["positions", "sigmoid"] = "positions"


class InterpolatedOffsets(LearnedOffsets):
    """Offsets that move by gradient: a window is a mixture of the two windows at the neighbouring grid points.

    Attributes:
        position: What is learned, `(N, G)`: the offset [rows], reflected at both ends of the range, so no window gets
            stuck; or, with `unit="sigmoid"`, DFSNet's `α` with `o = last·σ(α)`.
    """

    Options: ClassVar[type[RuleOptions]] = InterpolatedOptions
    options: InterpolatedOptions

    def __init__(
        self,
        lattice: Lattice,
        options: InterpolatedOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, device=device)
        self.position = nn.Parameter(torch.empty(lattice.filters, lattice.windows, device=device))
        self.assign(self.start())

    @torch.no_grad()
    def assign(self, offsets: Int[Tensor, "n g"]) -> None:
        value = offsets.to(self.position.dtype)
        if self.options.unit == "sigmoid":
            margin = 0.4 / max(self.lattice.choices - 1, 1)  # the ends are at infinity: stay where values round to them
            share = (value / max(self.lattice.last, 1)).clamp(margin, 1 - margin)
            value = torch.log(share) - torch.log1p(-share)
        self.position.copy_(value)

    def steps(self) -> Float[Tensor, "n g"]:
        """Real-valued offsets in grid steps, `0 … choices − 1`."""
        most = self.lattice.choices - 1
        if self.options.unit == "sigmoid":
            return torch.sigmoid(self.position) * most
        if most == 0:
            return self.position * 0
        return most - (torch.remainder(self.position / self.lattice.grid, 2 * most) - most).abs()

    def hard_offsets(self) -> Int[Tensor, "n g"]:
        return self.steps().round().long().clamp(0, self.lattice.choices - 1) * self.lattice.grid

    def soft_placement(self) -> Placement:
        return between_neighbours(self.steps(), self.lattice)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, in {self.options.unit}"


def between_neighbours(steps: Float[Tensor, "n g"], lattice: Lattice) -> Placement:
    """Windows at real-valued grid steps, as mixtures of the two windows at the neighbouring integers."""
    count = min(2, lattice.choices)
    first = steps.detach().floor().long().clamp(0, lattice.choices - count)
    distance = first.unsqueeze(-1) + torch.arange(count, device=steps.device) - steps.unsqueeze(-1)
    return Placement(first * lattice.grid, linear_mixture(distance), lattice.grid)


def linear_mixture(distance: Float[Tensor, "n g j"]) -> Float[Tensor, "n g j"]:
    """Weights of the two neighbours of an offset, from their signed distances to it.

    Written without `abs` and `clamp`, whose derivatives vanish at integers, where every offset starts. Here the
    derivative at an integer is the one towards the upper neighbour, DFSNet's `F[⌊l⌋+1 : ·] − F[⌊l⌋ : ·]`.
    """
    if distance.shape[-1] == 1:
        return torch.ones_like(distance)
    upper = -distance[..., :1]
    return torch.cat([1 - upper, upper], -1)
