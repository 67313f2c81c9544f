"""Selections on top of folds: which block a filter is in, and the order in which channels are folded."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.sampling.folds import Folds


@dataclass(frozen=True, eq=False)
class Selection:
    """What a layer with folds selects. Where it selects nothing, filters and channels are in order.

    Filters are computed sorted by block, so a layer with any selection is the layer without one between two selections
    of channels: `inputs` before it, and `outputs` after it.

    Attributes:
        slots: `(N,)`: the place of each filter among those sorted by block, group by group.
        channels: `(M,)`: the input channel of a convolution group that stands at each place of the folds.
    """

    slots: Int[Tensor, "n"] | None = None
    channels: Int[Tensor, "m"] | None = None

    def inputs(self, x: Tensor, axis: int, groups: int = 1) -> Tensor:
        """Input channels in the order in which they are folded."""
        return x if self.channels is None else x.index_select(axis, repeated(self.channels, groups))

    def outputs(self, y: Tensor, axis: int) -> Tensor:
        """What comes sorted by block, in the order of the filters."""
        return y if self.slots is None else y.index_select(axis, self.slots)

    def sort(self, rows: Tensor) -> Tensor:
        """One row per filter, sorted by block."""
        return rows if self.slots is None else rows.index_select(0, inverse(self.slots))

    def weight(self, folded: Float[Tensor, "n m *kernel"]) -> Float[Tensor, "n m *kernel"]:
        """A weight whose channels are in the order of the folds, with its channels in the order of the input."""
        return folded if self.channels is None else folded.index_select(1, inverse(self.channels))


#: Nothing is selected.
IN_ORDER = Selection()


def repeated(channels: Int[Tensor, "m"], groups: int) -> Int[Tensor, "c"]:
    """The same order of channels in each convolution group."""
    if groups == 1:
        return channels
    starts = torch.arange(groups, device=channels.device) * len(channels)
    return (starts[:, None] + channels).reshape(-1)


def inverse(permutation: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """The permutation that undoes another one."""
    numbers = torch.arange(len(permutation), device=permutation.device)
    return torch.zeros_like(permutation).scatter(0, permutation, numbers)


def slots_of(blocks: Int[Tensor, "n"], folds: Folds) -> Int[Tensor, "n"]:
    """The place of each filter among those sorted by block; filters of one block keep their order.

    `blocks` names each block as often as it has filters.
    """
    of_group = blocks.reshape(folds.groups, -1, 1)
    there = (of_group == torch.arange(folds.blocks, device=blocks.device)).long()
    count = there.cumsum(1)
    before = count[:, -1:].cumsum(2) - count[:, -1:]
    each = folds.filters // folds.groups
    starts = torch.arange(folds.groups, device=blocks.device)[:, None] * each
    return ((there * (count + before - 1)).sum(2) + starts).reshape(-1)
