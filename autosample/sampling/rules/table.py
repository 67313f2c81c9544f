"""Offsets given as a table of integers: hardening turns a learned rule into it."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from autosample.sampling.rules.base import Lattice, Offsets
from autosample.sampling.windows import Placement


class TableOffsets(Offsets):
    """Integer offsets, stored at the bits they need.

    Args:
        lattice: The admissible offsets.
        offsets: The offsets, or their steps on the grid as bits, as a file holds them.
    """

    def __init__(self, lattice: Lattice, offsets: Int[Tensor, "n g"] | Bool[Tensor, "n g bits"]) -> None:
        super().__init__(lattice, device=offsets.device)
        self.keep_bits("table", offsets if offsets.dtype == torch.bool else lattice.steps(offsets))

    def placement(self) -> Placement:
        return Placement(self.kept("table") * self.lattice.grid)

    def stored_bits(self) -> int:
        return self.lattice.table_bits

    def packed(self) -> dict[str, Tensor]:
        return self.lattice.pack(self.get_buffer("table_bits"))

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        self.keep_bits("table", self.lattice.unpack(stored))
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """Load a state; version 0.1.0 kept the offsets in rows."""
        if prefix + "table" in state_dict:
            state_dict[prefix + "table"] = state_dict[prefix + "table"] // self.lattice.grid
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def start_offsets(
    lattice: Lattice, start: Literal["strided", "random"], seed: int | Int[Tensor, ""], device: torch.device | None
) -> Int[Tensor, "n g"]:
    """Initial offsets of learned windows: those of the strided rule, or random ones."""
    if device is not None and torch.device(device).type == "meta":  # only its shape matters
        return torch.empty(lattice.filters, lattice.windows, dtype=torch.long, device=device)
    return lattice.random(seed, device) if start == "random" else lattice.strided(device)
