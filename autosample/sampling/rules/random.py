"""Pseudo-random positions: HashedNets (Chen et al. 2015, section 4) with windows of one weight, ROAST-like else."""

from collections.abc import Mapping

import torch
from torch import Tensor

from autosample.sampling.hashing import layer_seed, random_positions
from autosample.sampling.rules.base import Offsets, Places
from autosample.sampling.spec import Spec
from autosample.sampling.windows import Placement


class RandomOffsets(Offsets):
    """Positions hashed from a seed, uniform on the grid. Only the seed is stored."""

    seed: Tensor

    def __init__(self, places: Places, spec: Spec, *, name: str = "", device: torch.device | None = None) -> None:
        super().__init__(places, device)
        self.register_buffer("seed", torch.tensor(layer_seed(spec.seed, name), device=device))

    def placement(self) -> Placement:
        p = self.places
        return Placement(random_positions(self.seed, p.filters, p.groups, p.choices).mul_(p.grid))

    def stored_bits(self) -> int:
        return 8 * self.seed.nbytes

    def packed(self) -> dict[str, Tensor]:
        return {"seed": self.seed}

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        self.seed = stored["seed"]
        return self
