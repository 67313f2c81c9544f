"""Offsets given as a table of integers: hardening turns a learned rule into it."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from autosample.sampling.rules.base import Lattice, Offsets
from autosample.sampling.windows import Placement


class TableOffsets(Offsets):
    """Integer offsets, stored at the bits they need."""

    def __init__(self, lattice: Lattice, offsets: Int[Tensor, "n g"]) -> None:
        super().__init__(lattice, device=offsets.device)
        self.keep("table", offsets, lattice.width)

    def placement(self) -> Placement:
        return Placement(self.kept("table"))

    def stored_bits(self) -> int:
        return self.lattice.table_bits

    def packed(self) -> dict[str, Tensor]:
        return self.lattice.pack(self.kept("table"))

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        self.keep("table", self.lattice.unpack(stored), self.lattice.width)
        return self


def start_offsets(
    lattice: Lattice, start: Literal["strided", "random"], seed: int, device: torch.device | None
) -> Int[Tensor, "n g"]:
    """Initial offsets of learned windows: those of the strided rule, or random ones."""
    if device is not None and torch.device(device).type == "meta":  # only its shape matters
        return torch.empty(lattice.filters, lattice.windows, dtype=torch.long, device=device)
    return lattice.random(seed, device) if start == "random" else lattice.strided(device)
