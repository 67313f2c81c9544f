"""Pseudo-random offsets: HashedNets (Chen et al. 2015, section 4) with windows of one weight, else like ROAST."""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor, nn

from autosample.sampling.hashing import SEED_BITS, random_offsets
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.windows import Placement

# Size of the operators that hash offsets in an exported file [bits]: a smaller table is written instead.
_HASH = 8 * 2000


class RandomOffsets(Offsets):
    """Offsets hashed from a seed, uniform on the grid. Only the seed is stored."""

    def __init__(
        self,
        lattice: Lattice,
        options: RuleOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, device=device)
        self.keep("seed", torch.tensor(seed, device=device), SEED_BITS)

    @property
    def seed(self) -> Int[Tensor, ""]:
        """The seed that the offsets are hashed from."""
        return self.kept("seed")

    def fresh(self, name: str) -> Tensor:
        return torch.tensor(self.seeded_with)

    def placement(self) -> Placement:
        p = self.lattice
        return Placement(random_offsets(self.seed, p.filters, p.windows, p.choices).mul_(p.grid))

    def stored_bits(self) -> int:
        return SEED_BITS

    def packed(self) -> dict[str, Tensor]:
        return {"seed": self.seed}

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        self.keep("seed", stored["seed"], SEED_BITS)
        return self

    def stored_form(self) -> nn.Module:
        return super().stored_form() if self.lattice.table_bits < _HASH else Hashed(self.lattice, self.seed)


class Hashed(nn.Module):
    """Offsets hashed from a seed in an exported graph."""

    seed: Tensor

    def __init__(self, lattice: Lattice, seed: Tensor) -> None:
        super().__init__()
        self.lattice = lattice
        self.register_buffer("seed", seed.detach().cpu().clone())

    def forward(self) -> Int[Tensor, "n g"]:
        p = self.lattice
        return random_offsets(self.seed, p.filters, p.windows, p.choices) * p.grid
