"""Positions given as a table of integers: what a learned rule becomes when it is hardened."""

import torch
from jaxtyping import Int
from torch import Tensor

from autosample.sampling.offsets.base import Offsets, Places
from autosample.sampling.windows import Placement


class TableOffsets(Offsets):
    """Integer positions, kept as int32 and stored at the bits they need."""

    table: Tensor

    def __init__(self, places: Places, positions: Int[Tensor, "n g"]) -> None:
        super().__init__(places)
        self.register_buffer("table", positions.to(torch.int32))

    def placement(self) -> Placement:
        return Placement(self.table.long())

    def stored_bits(self) -> int:
        return self.places.table_bits

    def packed(self) -> dict[str, Tensor]:
        return self.places.pack(self.table)
