"""Layers with folds in the fused kernel: a tile's signed sums and products stay in the cache."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.reuse import fused
from autosample.reuse.folded import FoldedMaps, FoldedRows
from autosample.reuse.layer import check_pool, kept_float
from autosample.reuse.program import Flow, Header, encode
from autosample.reuse.schedule import Frame, Schedule, fitting_step, make_schedule
from autosample.sampling.folds import Folds
from autosample.sampling.selection import IN_ORDER, Selection

_BLOCK = 8  # equal to kBlock in csrc/simd.h


@dataclass(frozen=True, eq=False)
class Bank:
    """The segments of all blocks, side by side.

    Attributes:
        rows: First segment of each filter among those of its block, `(N, 1)`.
        numbers: The segments of all blocks, `(B·segments·step, Q)`.
        segments: Segments of one block, a multiple of 8.
        schedule: How windows are built from segments.
    """

    rows: Int[Tensor, "n 1"]
    numbers: Float[Tensor, "l q"]
    segments: int
    schedule: Schedule


def whole_filters(folds: Folds, frame: Frame, filters: Float[Tensor, "n q *kernel"]) -> Bank:
    """A bank in which every filter is a segment of its own."""
    taps = filters.shape[2:].numel()
    segments, rows = _rounded(folds.largest), _in_block(folds)
    numbers = filters.new_zeros(folds.blocks, segments, taps, folds.columns)
    numbers[folds.block(), rows] = filters.detach().flatten(2).transpose(1, 2)
    return Bank(rows[:, None], numbers.flatten(0, 2), segments, make_schedule(taps, frame.kernel, frame.dilation))


def shared_segments(
    folds: Folds, frame: Frame, summary: Float[Tensor, "l q"], offsets: Int[Tensor, " n"]
) -> Bank | None:
    """A bank whose segments are shared by the overlapping windows of a block; `None` if they do not overlap.

    Args:
        folds, frame: What to compute.
        summary: `Φ`.
        offsets: `o[n]`, rows.
    """
    taps = torch.Size(frame.kernel).numel()
    step = fitting_step(math.gcd(*offsets.tolist()) or taps, frame.kernel)
    if step == taps:
        return None
    rows, wanted = torch.empty_like(offsets), []
    for block in range(folds.blocks):
        inside = folds.block() == block
        rows[inside], found = _laid_out(offsets[inside], taps)
        wanted.append(found)
    longest = _rounded(max(map(len, wanted)) // step) * step
    # rows beyond a block's own ones are never read
    table = torch.stack([F.pad(found, (0, longest - len(found))) for found in wanted])
    schedule = make_schedule(step, frame.kernel, frame.dilation)
    return Bank((rows // step)[:, None], summary.detach()[table].flatten(0, 1), longest // step, schedule)


def _laid_out(offsets: Int[Tensor, " n"], taps: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " rows"]]:
    """Windows that overlap, laid out one after the other: their new offsets, and the rows that are laid out.

    Where the next window lies before the one before it, or beyond its end, a new piece begins.
    """
    moved, rows = [], []
    for offset in offsets.tolist():
        if not rows or not rows[-1] - taps < offset <= rows[-1]:
            rows.extend(range(offset, offset + taps))
        else:
            rows.extend(range(rows[-1] + 1, offset + taps))
        moved.append(len(rows) - taps)
    return torch.tensor(moved), torch.tensor(rows)


def _rounded(count: int) -> int:
    return -(-count // _BLOCK) * _BLOCK


def _in_block(folds: Folds) -> Int[Tensor, " n"]:
    """The place of each filter in its block."""
    return folds.places() - folds.block() * folds.largest


class _InKernel(nn.Module):
    """A module whose numbers the kernel reads, in float32. Elsewhere standard operators compute the same."""

    def _get_ready(self) -> None:
        self._ready = fused.available()
        self._apply(lambda t: t)

    def _fits(self, x: Tensor) -> bool:
        return self._ready and fused.fits(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        with kept_float(self):
            super()._apply(fn, recurse)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._ready = fused.available()  # another machine may have no compiler


class FusedFolds(_InKernel, FoldedMaps):
    """A convolution with folds in the fused kernel, for inference; made by `autosample.deploy`.

    On a CPU in float32 and bfloat16 the kernel runs. Otherwise standard operators compute the same.

    Args:
        folds, frame: What to compute; one convolution group.
        bank: The filters.
        factors: Per filter `(N, 1)`, or `None`.
        bias, pad, relu, pool, selection: As for `FoldedMaps`.
    """

    bank: Tensor
    rows: Tensor
    factors: Tensor | None

    def __init__(
        self,
        folds: Folds,
        frame: Frame,
        bank: Bank,
        *,
        factors: Float[Tensor, "n 1"] | None = None,
        relu: bool = False,
        pool: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(folds, frame, bank.numbers, relu=relu, pool=pool, **options)
        self.schedule, self._segments = bank.schedule, bank.segments
        self.register_buffer("bank", fused.panels(bank.numbers, folds.blocks * bank.segments))
        self.register_buffer("rows", bank.rows.to(torch.int32).contiguous())
        if factors is None:
            self.factors = None
        else:
            self.register_buffer("factors", factors.detach().float().clone().contiguous())
        self.program = encode(
            bank.schedule,
            frame,
            Flow(
                groups=1,
                windows=folds.windows,
                columns=folds.columns,
                channels=folds.channels,
                fold=True,
                choices=bank.segments - bank.schedule.span + 1,
                spread=1.0,
                relu=relu,
                pool=pool,
                folds=folds.blocks,
            ),
        )
        self._rectified = [*self.program]
        self._rectified[Header._fields.index("relu")] = 1
        self._get_ready()

    def placed(self, dtype: torch.dtype) -> tuple[Float[Tensor, "p q *kernel"], Float[Tensor, " p"] | None]:
        numbers = self.bank.transpose(1, 2).flatten(0, 1).reshape(-1, self.folds.columns)
        kernel = self.frame.kernel
        first = self.rows[:, 0].long() + self.folds.block(numbers.device) * self._segments
        windows = numbers.to(dtype).unfold(0, torch.Size(kernel).numel(), 1)[first * self.schedule.step]
        filters = windows.unflatten(2, kernel)
        if self.factors is not None:
            filters = filters * self.factors.to(dtype).view(-1, *[1] * (filters.dim() - 1))
        return self.folds.spread(filters), None if self.bias is None else self.folds.spread(self.bias.to(dtype))

    def _run(self, x: Float[Tensor, "b c *size"], shortcut: Tensor | None, matrix: Tensor) -> Float[Tensor, "b n *out"]:
        if not self._fits(x) or (shortcut is not None and not self._fits(shortcut)):
            return super()._run(x, shortcut, matrix)
        check_pool(self.frame, x, self.pool)
        if shortcut is None:
            return fused.window_conv(x, self.bank, self.rows, self.factors, self.bias, self.program)
        more = shortcut.to(x.dtype)
        return fused.window_conv(x, self.bank, self.rows, self.factors, self.bias, self._rectified, more)

    def extra_repr(self) -> str:
        sums = "x".join(str(p.count) for p in self.schedule.axes) or "1"
        return f"{super().extra_repr()}, fused, sums of {sums}"


class FusedFoldedLinear(_InKernel, FoldedRows):
    """A linear layer with folds in the fused kernel, for inference; made by `autosample.deploy`.

    On a CPU in float32 and bfloat16 the kernel runs. Otherwise standard operators compute the same.

    Args:
        folds: What to compute.
        filters: One window of the summary per filter, `(N, Q)`.
        bias: `(N,)` or `None`.
        relu: Whether a ReLU follows.
        selection: As for `Folded`.
    """

    bank: Tensor

    def __init__(
        self,
        folds: Folds,
        filters: Float[Tensor, "n q"],
        *,
        bias: Float[Tensor, " n"] | None = None,
        relu: bool = False,
        selection: Selection = IN_ORDER,
    ) -> None:
        super().__init__(folds, 1, filters, bias, relu, selection)
        places = filters.new_zeros(folds.blocks, -(-folds.largest // fused.PANEL) * fused.PANEL, folds.columns)
        places[folds.block(), _in_block(folds)] = filters.detach()
        self.register_buffer("bank", fused.panels(places.flatten(0, 1), places.shape[0] * places.shape[1]))
        self.program = [folds.channels, folds.windows, folds.columns, folds.blocks, folds.filters, int(relu)]
        self._get_ready()

    def placed(self, dtype: torch.dtype) -> tuple[Float[Tensor, "p q"], Float[Tensor, " n"] | None]:
        places = self.bank.to(dtype).transpose(1, 2).reshape(self.folds.blocks, -1, self.folds.columns)
        return places[:, : self.folds.largest].flatten(0, 1), self.bias

    def _run(self, x: Float[Tensor, "*batch m"], matrix: Tensor) -> Float[Tensor, "*batch n"]:
        if not self._fits(x):
            return super()._run(x, matrix)
        rows = x.reshape(-1, self.folds.channels)
        y = torch.ops.autosample.folded_linear(rows, self.bank, self.bias, self.program)
        return y.view(*x.shape[:-1], self.folds.filters)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, fused"
