"""Positions given as a table of integers: a codebook's assignments, and what a learned rule is hardened to."""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from autosample.sampling.rules.base import Offsets, Places, start_positions
from autosample.sampling.spec import Spec
from autosample.sampling.windows import Placement


class TableOffsets(Offsets):
    """Integer positions, kept as int32 and stored at the bits they need."""

    table: Tensor

    def __init__(self, places: Places, positions: Int[Tensor, "n g"]) -> None:
        super().__init__(places, positions.device)
        self.register_buffer("table", positions.to(torch.int32))

    def placement(self) -> Placement:
        return Placement(self.table.long())

    def stored_bits(self) -> int:
        return self.places.table_bits

    def packed(self) -> dict[str, Tensor]:
        return self.places.pack(self.table)

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        self.table = self.places.unpack(stored).to(torch.int32)
        return self


class AssignedOffsets(TableOffsets):
    """A table that a warm start fills and training leaves alone: vector quantisation, Deep k-Means (Wu et al. 2018).

    Without a warm start the assignments are those of the spec's `start`.
    """

    def __init__(self, places: Places, spec: Spec, *, name: str = "", device: torch.device | None = None) -> None:
        super().__init__(places, start_positions(places, spec, name, device))

    def assign(self, positions: Int[Tensor, "n g"]) -> None:
        self.table.copy_(positions)
