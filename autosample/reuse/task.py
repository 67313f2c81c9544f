"""What a summary layer with integer offsets computes, in one form for all presets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.reuse.schedule import Schedule, fitting_step, make_schedule
from autosample.sampling.geometry import Geometry


class Source(Protocol):
    """How the bank of a task is cut out of a summary; differentiable."""

    def __call__(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "rows columns"]: ...


@dataclass(frozen=True)
class Slice:
    """Some rows of the summary, unchanged."""

    start: int
    rows: int

    def __call__(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "rows q"]:
        return summary[self.start : self.start + self.rows]


@dataclass(frozen=True)
class Widened:
    """`Φ'[v] = concat_g Φ[v + δ_g]`: one window instead of `G` at fixed distances `δ`."""

    starts: tuple[int, ...]
    rows: int
    columns: int

    def __call__(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "rows columns"]:
        return torch.cat([summary[start : start + self.rows] for start in self.starts], 1)[:, : self.columns]


@dataclass(frozen=True, eq=False)
class Codebook:
    """Distinct windows of the flattened filter, each some whole channels of `taps` taps."""

    offsets: Int[Tensor, "p"]
    window: int
    taps: int

    def __call__(self, summary: Float[Tensor, "l 1"]) -> Float[Tensor, "rows columns"]:
        words = summary[:, 0].unfold(0, self.window, 1)[self.offsets]
        return words.unflatten(1, (-1, self.taps)).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Unrolled:
    """The windows of another bank, one after the other."""

    source: Source
    offsets: Int[Tensor, "p"]
    taps: int

    def __call__(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "rows columns"]:
        windows = self.source(summary).unfold(0, self.taps, 1)[self.offsets]
        return windows.transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Task:
    """A convolution whose filters are sums of windows of a bank: everything except the numbers in the bank.

    Attributes:
        source: Gives the bank, shape `(segments·step, columns)`.
        rows: First segment of each window, shape `(N, windows)`; `windows` is 1 if they share an offset.
        segments: Number of segments of the bank.
        schedule: Segments and passes.
        groups: Convolution groups.
        channels: Input channels of one convolution group, `M`.
        splits: Number of channel blocks that the input is cut into, each of `columns` channels.
        fold: Whether these channel blocks are added first.
        table: Which column each channel reads, `(splits, Q)`, or `None` for `m mod Q`.
    """

    source: Source
    rows: Int[Tensor, "n g"]
    segments: int
    columns: int
    schedule: Schedule
    groups: int
    channels: int
    splits: int
    fold: bool
    table: Int[Tensor, "s q"] | None = None

    @property
    def filters(self) -> int:
        return self.rows.shape[0]

    @property
    def dense(self) -> int:
        """Weights of the dense layer."""
        return self.filters * self.channels * math.prod(self.schedule.kernel)

    @property
    def choices(self) -> int:
        """Number of windows in the bank."""
        return self.segments - self.schedule.span + 1

    @property
    def blocks(self) -> int:
        """Number of channel blocks that are computed one by one."""
        return 1 if self.fold else self.splits

    @property
    def in_order(self) -> bool:
        """Whether the filters take all windows of the bank one after the other, as with a fixed stride."""
        rows = self.rows
        if rows.shape[1] != 1 or self.groups > 1 or rows.shape[0] != self.choices:
            return False
        return bool((rows[:, 0] == torch.arange(len(rows), device=rows.device)).all())

    def unrolled(self) -> "Task":
        """The same with every window as a separate filter: nothing is shared along the taps, only channels fold."""
        distinct, rows = self.rows.unique(return_inverse=True)
        old, taps = self.schedule, math.prod(self.schedule.kernel)
        return replace(
            self,
            source=Unrolled(self.source, distinct.long() * old.step, taps),
            rows=rows.to(torch.int32),
            segments=len(distinct),
            schedule=make_schedule(taps, old.kernel, old.dilation),
        )


def dense_task(shape: Sequence[int], dilation: tuple[int, ...]) -> Task:
    """The task of a dense convolution with a weight of `shape` `(N, M, *kernel)`: every filter is a segment.

    Its bank is `weight.flatten(2).transpose(1, 2).flatten(0, 1)`.
    """
    filters, channels, *kernel = shape
    taps = math.prod(kernel)
    return Task(
        source=Slice(0, filters * taps),
        rows=torch.arange(filters, dtype=torch.int32)[:, None],
        segments=filters,
        columns=channels,
        schedule=make_schedule(taps, tuple(kernel), dilation),
        groups=1,
        channels=channels,
        splits=1,
        fold=True,
    )


def make_task(
    offsets: Int[Tensor, "n g"],
    geometry: Geometry,
    *,
    dilation: tuple[int, ...],
    groups: int = 1,
    per_window: bool = False,
    table: Int[Tensor, "g q"] | None = None,
) -> Task | None:
    """The task of a layer, or `None` if its windows share no work.

    Args:
        offsets, geometry, dilation, groups: Those of the layer.
        per_window: Whether each window of a filter has its own factor, so windows cannot be added first.
        table: Its channel selection, `None` for `m mod Q`.
    """
    together = not per_window and bool((offsets == offsets[:, :1]).all())
    common = {"groups": groups, "channels": geometry.channels, "table": table, "fold": together}
    if geometry.layout == "taps":
        apart = offsets - offsets[:, :1]
        fixed = not together and not per_window and table is None and bool((apart == apart[0]).all())
        return _wide_task(offsets, geometry, dilation, common) if fixed else _task(offsets, geometry, dilation, common)
    if geometry.taps > 1 and geometry.window % geometry.taps:
        return None  # windows start in the middle of a kernel: no two read the same input
    distinct, rows = (offsets[:, :1] if together else offsets).unique(return_inverse=True)
    return Task(
        source=Codebook(distinct, geometry.window, geometry.taps),
        rows=rows.to(torch.int32),
        segments=len(distinct),
        columns=geometry.window // geometry.taps,
        schedule=make_schedule(geometry.taps, geometry.kernel, dilation),
        splits=geometry.windows,
        **common,
    )


def _task(offsets: Int[Tensor, "n g"], geometry: Geometry, dilation: tuple[int, ...], common: dict[str, Any]) -> Task:
    """The task of a layer whose windows are rows of the unchanged summary."""
    starts = offsets[:, :1] if common["fold"] else offsets
    low, rows, step = _cut(starts, geometry)
    return Task(
        source=Slice(low, rows),
        rows=((starts - low) // step).to(torch.int32),
        segments=rows // step,
        columns=geometry.columns,
        schedule=make_schedule(step, geometry.kernel, dilation),
        splits=geometry.windows,
        **common,
    )


def _wide_task(
    offsets: Int[Tensor, "n g"], geometry: Geometry, dilation: tuple[int, ...], common: dict[str, Any]
) -> Task:
    """The task of a layer whose windows have the same distances in all filters: each filter is one wide window."""
    starts = offsets[:, :1]
    low, rows, step = _cut(starts, geometry)
    apart = (offsets[0] - offsets[0, 0]).tolist()
    return Task(
        source=Widened(tuple(low + d for d in apart), rows, geometry.channels),
        rows=((starts - low) // step).to(torch.int32),
        segments=rows // step,
        columns=geometry.channels,
        schedule=make_schedule(step, geometry.kernel, dilation),
        splits=1,
        **common,
    )


def _cut(starts: Int[Tensor, "n #g"], geometry: Geometry) -> tuple[int, int, int]:
    """The first used row of the summary, the number of used rows, and the rows per segment."""
    low = int(starts.amin())
    step = fitting_step(math.gcd(*(starts - low).unique().tolist()) or geometry.taps, geometry.kernel)
    return low, int(starts.amax()) - low + geometry.taps, step
