"""Real-valued offsets, learned through interpolation: DFSNet (Yang et al. 2020, section 3.3) and NES's sampler (Zhou et
al. 2020, eq. 4)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.sampling.rules.base import Lattice, RuleOptions
from autosample.sampling.rules.learned import LearnedOffsets, LearnedOptions
from autosample.sampling.windows import Placement

# The parameter's name for each unit.
_NAMES = {"positions": "position", "sigmoid": "centred", "logit": "alpha"}


@dataclass(frozen=True, kw_only=True)
class InterpolatedOptions(LearnedOptions):
    """Settings of the rule, besides those of every learned rule.

    Attributes:
        unit: What the parameter is: an offset in `positions` [rows]; the same through a `sigmoid`, which keeps it in
            the range, `o = last·σ(4a/last)`; or DFSNet's own `logit`, `o = last·σ(α)`. In the first two, a step of Adam
            moves an offset by at most `rate` rows, in the last by up to `rate·last/4`, and offsets become chaotic.
    """

    unit: Literal["positions", "sigmoid", "logit"] = "positions"


class InterpolatedOffsets(LearnedOffsets):
    """Offsets that move by gradient: a window is a mixture of the two windows at the neighbouring grid points.

    What is learned, `(N, G)`, has a name for each unit: `position`, the offset [rows], reflected at both ends of the
    range, so no window gets stuck; `centred`, `a` with `o = last·σ(4a/last)` [rows]; or `alpha`, DFSNet's `α` with
    `o = last·σ(α)`.
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
        self.name = _NAMES[self.options.unit]
        empty = torch.empty(lattice.filters, lattice.windows, device=device)
        self.register_parameter(self.name, nn.Parameter(empty))
        self.assign(self.start())

    @property
    def value(self) -> Tensor:
        """What is learned, in its unit: a parameter, or what `torch.func.functional_call` puts in its place."""
        return getattr(self, self.name)

    @property
    def _rows(self) -> float:
        """Rows per unit of what is learned, in the middle of the range."""
        return rows_per_logit(self.lattice) if self.options.unit == "logit" else 1.0

    @torch.no_grad()
    def assign(self, offsets: Int[Tensor, "n g"]) -> None:
        value = offsets.to(self.value.dtype)
        if self.options.unit != "positions":
            value = logit_of(value, self.lattice) * (rows_per_logit(self.lattice) / self._rows)
        self.value.copy_(value)

    def steps(self) -> Float[Tensor, "n g"]:
        """Real-valued offsets in grid steps, `0 … choices − 1`."""
        most = self.lattice.choices - 1
        if self.options.unit != "positions":
            return torch.sigmoid(self.value * (self._rows / rows_per_logit(self.lattice))) * most
        if most == 0:
            return self.value * 0
        return most - (torch.remainder(self.value / self.lattice.grid, 2 * most) - most).abs()

    def soft_offsets(self) -> Float[Tensor, "n g"]:
        return self.steps() * self.lattice.grid

    def speed(self, rate: float) -> float:
        return rate * self._rows if self.lattice.choices > 1 else 0.0

    def in_old_unit(self, state: Collection[str]) -> bool:
        return self.name != "position" and "position" in state

    def hard_offsets(self) -> Int[Tensor, "n g"]:
        return self.steps().round().long().clamp(0, self.lattice.choices - 1) * self.lattice.grid

    def soft_placement(self) -> Placement:
        return between_neighbours(self.steps(), self.lattice)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """Load a state; earlier versions kept `α` as `position`."""
        if self.in_old_unit({key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}):
            alpha = state_dict.pop(prefix + "position")
            state_dict[prefix + self.name] = alpha * (rows_per_logit(self.lattice) / self._rows)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, in {self.options.unit}"


def rows_per_logit(lattice: Lattice) -> float:
    """`∂o/∂z` of `o = last·σ(z)` in the middle of the range, where it is largest [rows]."""
    return max(lattice.last, 1) / 4


def logit_of(offsets: Float[Tensor, "n g"], lattice: Lattice) -> Float[Tensor, "n g"]:
    """`z` with `offsets = last·σ(z)`. The ends are at infinity: there it stays where values round to them."""
    margin = 0.4 / max(lattice.choices - 1, 1)
    share = (offsets / max(lattice.last, 1)).clamp(margin, 1 - margin)
    return torch.log(share) - torch.log1p(-share)


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
