"""Patches: consecutive filters that share an offset, NES's wrapping along filters (Zhou et al. 2020, section 3.2)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from autosample.sampling.rules.base import Lattice, Offsets
from autosample.sampling.rules.table import TableOffsets
from autosample.sampling.windows import Placement


class Patches:
    """Where the filters of a layer lie if `count` of them share an offset: each reads a window after the last one.

    A summary that is too short for patches of `count` windows has smaller ones.

    Attributes:
        each: The offsets of all filters.
        whole: The offsets of all patches, `(⌈N/count⌉, G)`.
        stride: Distance of two filters of a patch [rows].
    """

    def __init__(self, each: Lattice, count: int) -> None:
        self.each, self.stride = each, -(-each.window // each.grid) * each.grid
        self.count = min(count, each.filters, each.last // self.stride + 1)
        room = each.last - (self.count - 1) * self.stride
        self.whole = replace(each, filters=-(-each.filters // self.count), limit=room)

    def spread(self, steps: Shaped[Tensor, "p g"], unit: int = 1) -> Shaped[Tensor, "n g"]:
        """Offsets of all filters from those of the patches, both in `unit` rows."""
        if self.count == 1:
            return steps
        place = torch.arange(self.each.filters, device=steps.device) % self.count * (self.stride // unit)
        return steps.repeat_interleave(self.count, 0)[: self.each.filters] + place[:, None]


class WrappedOffsets(Offsets):
    """The offsets of patches, stored at the bits they need.

    Args:
        lattice: The admissible offsets of all filters.
        count: Filters of a patch.
        table: The offsets of patches.
    """

    def __init__(self, lattice: Lattice, count: int, table: TableOffsets) -> None:
        super().__init__(lattice, device=table.anchor.device)
        self.patches, self.table = Patches(lattice, count), table

    def placement(self) -> Placement:
        return Placement(self.patches.spread(self.table()))

    def stored_bits(self) -> int:
        return self.table.stored_bits()

    def packed(self) -> dict[str, Tensor]:
        return self.table.packed()

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        self.table.restored(stored)
        return self
