"""What a summary layer with integer positions asks to be computed, brought into one form for all presets."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

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
    """Some rows of the summary as they are."""

    start: int
    rows: int

    def __call__(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "rows q"]:
        return summary[self.start : self.start + self.rows]


@dataclass(frozen=True)
class Widened:
    """`Φ'[v] = concat_g Φ[v + δ_g]`: one window where there were `G` at fixed distances `δ`."""

    starts: tuple[int, ...]
    rows: int
    columns: int

    def __call__(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "rows columns"]:
        return torch.cat([summary[start : start + self.rows] for start in self.starts], 1)[:, : self.columns]


@dataclass(frozen=True, eq=False)
class Codebook:
    """Distinct windows of the unrolled filter, each of them some whole channels of `taps` taps."""

    positions: Int[Tensor, "p"]
    window: int
    taps: int

    def __call__(self, summary: Float[Tensor, "l 1"]) -> Float[Tensor, "rows columns"]:
        words = summary[:, 0].unfold(0, self.window, 1)[self.positions]
        return words.unflatten(1, (-1, self.taps)).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Unrolled:
    """The windows of another bank, one after the other."""

    source: Source
    positions: Int[Tensor, "p"]
    taps: int

    def __call__(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "rows columns"]:
        windows = self.source(summary).unfold(0, self.taps, 1)[self.positions]
        return windows.transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Task:
    """A convolution whose filters are sums of windows of a bank: all but the numbers in the bank.

    Attributes:
        source: Gives the bank, shape `(segments·step, columns)`.
        rows: Which segment each window begins with, shape `(N, windows)`; `windows` is 1 where they share a position.
        segments: Segments of the bank.
        schedule: Segments and passes.
        groups: Convolution groups.
        channels: Input channels of one convolution group, `M`.
        splits: Channel groups that the input is cut into, each of `columns` channels.
        fold: Whether these channel groups are added up first.
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
    def positions(self) -> int:
        """Window positions that the bank offers."""
        return self.segments - self.schedule.span + 1

    @property
    def blocks(self) -> int:
        """Channel groups that are computed one by one."""
        return 1 if self.fold else self.splits

    @property
    def in_order(self) -> bool:
        """Whether the windows of all filters are all positions in turn, as with a fixed stride."""
        rows = self.rows
        if rows.shape[1] != 1 or self.groups > 1 or rows.shape[0] != self.positions:
            return False
        return bool((rows[:, 0] == torch.arange(len(rows), device=rows.device)).all())

    def unrolled(self) -> "Task":
        """The same with every window as a filter of its own: nothing is shared along the taps, only channels fold."""
        distinct, rows = self.rows.unique(return_inverse=True)
        old, taps = self.schedule, math.prod(self.schedule.kernel)
        return replace(
            self,
            source=Unrolled(self.source, distinct.long() * old.step, taps),
            rows=rows.to(torch.int32),
            segments=len(distinct),
            schedule=make_schedule(taps, old.kernel, old.dilation),
        )


def make_task(
    positions: Int[Tensor, "n g"],
    geometry: Geometry,
    *,
    dilation: tuple[int, ...],
    groups: int = 1,
    per_window: bool = False,
    table: Int[Tensor, "g q"] | None = None,
) -> Task | None:
    """The task of a layer, or `None` where its windows share no work that could be done once.

    Args:
        positions, geometry, dilation, groups: Of the layer, positions as integers.
        per_window: Whether windows of a filter have factors of their own, so that they cannot be added up beforehand.
        table: Its channel selection, `None` for `m mod Q`.
    """
    if geometry.layout == "flat" and geometry.taps > 1 and geometry.window % geometry.taps:
        return None  # windows begin in the middle of a kernel: no two meet the same input
    together = not per_window and bool((positions == positions[:, :1]).all())
    common = {"groups": groups, "channels": geometry.channels, "table": table}
    if geometry.layout == "flat":
        distinct, rows = (positions[:, :1] if together else positions).unique(return_inverse=True)
        return Task(
            source=Codebook(distinct, geometry.window, geometry.taps),
            rows=rows.to(torch.int32),
            segments=len(distinct),
            columns=geometry.window // geometry.taps,
            schedule=make_schedule(geometry.taps, geometry.kernel, dilation),
            splits=geometry.windows,
            fold=together,
            **common,
        )
    apart = positions[0] - positions[0, 0]
    fixed = not per_window and table is None and bool((positions - positions[:, :1] == apart).all())
    places = positions[:, :1] if fixed or together else positions
    low = int(places.amin())
    step = fitting_step(math.gcd(*(places - low).unique().tolist()) or geometry.taps, geometry.kernel)
    rows = int(places.amax()) - low + geometry.taps
    source: Source = Slice(low, rows)
    if fixed and not together:
        source = Widened(tuple(low + d for d in apart.tolist()), rows, geometry.channels)
    return Task(
        source=source,
        rows=((places - low) // step).to(torch.int32),
        segments=rows // step,
        columns=geometry.channels if fixed and not together else geometry.columns,
        schedule=make_schedule(step, geometry.kernel, dilation),
        splits=1 if fixed and not together else geometry.windows,
        fold=together,
        **common,
    )
