"""The form of a layer in a file, by a cost model of onnxruntime's operators, from shapes alone.

A file must not depend on the load of a machine, so nothing is timed here. The numbers were fitted to onnxruntime 1.31
on one core of an AVX-512 processor; they only need to rank forms that differ a lot.
"""

import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from autosample.nn import Compressed
from autosample.nn.planning import layer_frame
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Slice, Task, Widened
from autosample.sampling.folds import Folds

Form = Literal["direct", "folded", "summed", "rows", "signed"]

# Costs in multiply-adds of a convolution.
_CALL = 5e5  # an operator
_READ = 8.0  # a weight: with few outputs, memory is the limit
_ADD = 12.0  # a sum of two numbers
_SLICE = 12.0  # a number that is copied first
_BLOCK = 16  # channels are always computed in blocks of this size


def choose_form(layer: Compressed, shape: Sequence[int] | None, sums: bool = True) -> tuple[Form, Task | None]:
    """The cheapest form of a layer for an input of `shape` (with the batch), and its task if it has one.

    Without `sums` it is not one of window sums: with 8 bits each sum would be rounded again.
    """
    task = layer.task()
    if task is None or shape is None or not isinstance(layer, nn.Conv1d | nn.Conv2d):
        return "direct", task
    frame, pad = layer_frame(layer)
    size = list(shape[2:])
    if pad is not None:
        size = [n + a + b for n, a, b in zip(size, pad[0][-2::-2], pad[0][-1::-2], strict=True)]
    if min(frame.out(size)) < 1:
        return "direct", None
    mixed = layer.out_channels if layer.out_channels != task.filters else 0
    costs = _costs(task, frame, (shape[0], *size), mixed)
    allowed: list[Form] = [form for form in costs if sums or form in ("direct", "folded")]
    return min(allowed, key=lambda form: costs[form]), task


def _costs(task: Task, frame: Frame, shape: Sequence[int], mixed: int) -> dict[Form, float]:
    batch, size = shape[0], shape[1:]
    out, filters = math.prod(frame.out(size)), mixed or task.filters
    taps = math.prod(frame.kernel)
    costs: dict[Form, float] = {"direct": filters * task.channels * taps * (batch * out + _READ) + _CALL}
    whole = task.table is None and task.fold and task.splits > 1
    folding = 0.0
    if whole:
        folding = min(_halving(task, batch * math.prod(size)), _product(task, batch * math.prod(size)))
        direct = filters * -(-task.channels // task.splits) * taps * (batch * out + _READ) + _CALL
        costs["folded"] = folding + direct
    if isinstance(task.source, Slice | Widened) and task.groups == 1 and task.table is None and task.schedule.axes:
        costs["summed"] = _summed(task, frame, batch, out, filters, mixed) + folding
        if fits_rows(task, frame, mixed):
            costs["rows"] = _rows(task, frame, batch, size[0]) + folding
    return costs


def signs_pay(layer: Compressed, folds: Folds, shape: Sequence[int]) -> bool:
    """Whether signed sums and a convolution with groups are cheaper than the weight, for an input of `shape`."""
    if isinstance(layer, nn.Linear):
        return True
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or min(layer_frame(layer)[0].out(shape[2:])) < 1:
        return False
    places = shape[0] * math.prod(shape[2:])
    out, each = shape[0] * math.prod(layer_frame(layer)[0].out(shape[2:])), folds.filters * math.prod(layer.kernel_size)
    summed = folds.groups * folds.blocks * folds.columns
    signed = each * folds.columns * (out + _READ) + places * summed * (folds.windows + _SLICE) + 4 * _CALL
    return signed < each * folds.channels * (out + _READ) + _CALL


def fits_rows(task: Task, frame: Frame, mixed: int) -> bool:
    """Whether a task can be computed by `RowSums`: signals, segments of one tap, one window per filter."""
    schedule = task.schedule
    single = schedule.segment == (1,) and schedule.rate(frame.stride) == (1,)
    return single and task.blocks == 1 and task.rows.shape[1] == 1 and not mixed


def _halving(task: Task, places: int) -> float:
    """Adding channel blocks by repeated halving."""
    passes = math.ceil(math.log2(task.splits))
    return task.groups * (places * task.channels * (_ADD + _SLICE) + passes * 2 * _CALL)


def _product(task: Task, places: int) -> float:
    """The same by a convolution with ones and zeros."""
    if task.groups > 1:
        return math.inf
    return task.channels * task.columns * (places + _READ) + _CALL


def by_product(task: Task, shape: Sequence[int]) -> bool:
    """Whether channel blocks are better added by a convolution, for an input of `shape` (with the batch)."""
    places = shape[0] * math.prod(shape[2:])
    return _product(task, places) < _halving(task, places)


def _summed(task: Task, frame: Frame, batch: int, out: int, filters: int, mixed: int) -> float:
    every = math.prod(s // r for s, r in zip(frame.stride, task.schedule.rate(frame.stride), strict=True))
    places, passes = batch * out * every, task.schedule.passes
    rows = task.blocks * task.segments
    total = places * rows * task.schedule.step * task.columns + task.segments * task.columns * _READ + _CALL
    for step in passes:
        total += rows * places * (step.count * _SLICE + (step.count - 1) * _ADD) + (2 * step.count - 1) * _CALL
    total += rows * places * _SLICE if every > 1 else 0
    if mixed or task.blocks > 1 or task.rows.shape[1] > 1:
        return total + batch * out * filters * task.blocks * task.choices + 2 * _CALL
    return total + batch * out * filters * (2 * _ADD + (0 if task.in_order else _SLICE)) + 2 * _CALL


def _rows(task: Task, frame: Frame, batch: int, size: int) -> float:
    width, (out,) = task.segments, frame.out((size,))
    padded = size + sum(frame.padding[0])
    total = size * task.columns * (width + _SLICE) + width * task.columns * _READ / batch + padded * width * _SLICE
    for step in task.schedule.axes:  # the runtime computes a whole block for a single channel
        total += padded * width * (_BLOCK * step.count + _SLICE)
    return batch * (total + out * task.filters * (2 * _ADD + 2 * _SLICE)) + 10 * _CALL
