"""Real-valued positions, learned through interpolation: DFSNet (Yang et al. 2020, section 3.3), NES's sampler (Zhou et
al. 2020, eq. 4), and DCLS's wider kernels (Hassani et al. 2023)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.sampling.rules.base import LearnedOffsets, Places, start_positions
from autosample.sampling.spec import Spec
from autosample.sampling.windows import Placement

# DCLS: the width of a Gaussian never falls below what keeps its sum over integers smooth
_LEAST_WIDTH = 0.27
_START_WIDTH = 0.5


class InterpolatedOffsets(LearnedOffsets):
    """Positions that move by gradient: a window is a mixture of those at the neighbouring grid points.

    Attributes:
        position: What is learned, `(N, G)`: the position [rows], reflected at both ends of the admissible range so
            that no window is ever stuck there; or, with `unit="sigmoid"`, DFSNet's `α` with `o = last·σ(α)`.
        width: Learned width of the Gaussian [grid steps], a scalar; absent for the other kernels.
    """

    def __init__(self, places: Places, spec: Spec, *, name: str = "", device: torch.device | None = None) -> None:
        super().__init__(places, start_positions(places, spec, name, device))
        self.kernel, self.unit = spec.kernel, spec.unit
        self.reach = 1 if spec.kernel == "linear" else spec.radius
        self.position = nn.Parameter(torch.empty(places.filters, places.groups, device=device))
        self.width = None
        if spec.kernel == "gaussian":
            self.width = nn.Parameter(torch.tensor(_START_WIDTH - _LEAST_WIDTH, device=device))
        self.assign(self.table)

    def rated(self) -> list[nn.Parameter]:
        return [self.position]  # the width is in no unit of positions

    @torch.no_grad()
    def assign(self, positions: Int[Tensor, "n g"]) -> None:
        value = positions.to(self.position.dtype)
        if self.unit == "sigmoid":
            margin = 0.4 / max(self.places.choices - 1, 1)  # the ends are at infinity: stay where they round to
            share = (value / max(self.places.last, 1)).clamp(margin, 1 - margin)
            value = torch.log(share) - torch.log1p(-share)
        self.position.copy_(value)

    def steps(self) -> Float[Tensor, "n g"]:
        """Real-valued positions in grid steps, `0 … choices − 1`."""
        most = self.places.choices - 1
        if self.unit == "sigmoid":
            return torch.sigmoid(self.position) * most
        if most == 0:
            return self.position * 0
        return most - (torch.remainder(self.position / self.places.grid, 2 * most) - most).abs()

    def hard_positions(self) -> Int[Tensor, "n g"]:
        return self.steps().round().long().clamp_(0, self.places.choices - 1) * self.places.grid

    def soft_placement(self) -> Placement:
        most = self.places.choices - 1
        count = min(2 * self.reach, most + 1)
        steps = self.steps()
        first = (steps.detach().floor().long() - (self.reach - 1)).clamp_(0, most + 1 - count)
        distance = first.unsqueeze(-1) + torch.arange(count, device=steps.device) - steps.unsqueeze(-1)
        return Placement(first * self.places.grid, self._mixture(distance), self.places.grid)

    def _mixture(self, distance: Float[Tensor, "n g j"]) -> Float[Tensor, "n g j"]:
        if self.width is not None:
            return torch.softmax(-0.5 * (distance / (self.width.abs() + _LEAST_WIDTH)).square(), -1)
        if self.reach == 1:
            return linear_mixture(distance)
        weights = (1 - distance.abs() / self.reach).clamp_min(0)
        return weights / weights.sum(-1, keepdim=True)  # triangles do not sum to one at the ends of the range

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.kernel}, reach {self.reach}, in {self.unit}"


def linear_mixture(distance: Float[Tensor, "n g j"]) -> Float[Tensor, "n g j"]:
    """Weights of the two neighbours of a position, from their signed distances to it.

    Written without `abs` and `clamp`, whose derivatives vanish at integers, where every position starts: here the
    derivative there is the one towards the upper neighbour, DFSNet's `F[⌊l⌋+1 : ·] − F[⌊l⌋ : ·]`.
    """
    if distance.shape[-1] == 1:
        return torch.ones_like(distance)
    upper = -distance[..., :1]
    return torch.cat([1 - upper, upper], -1)
