"""Reuse in standard operators: fold, segments, window sums, select (WSNet's section 3.3, made stable).

Only convolution, slice, add and index are used, so autograd, `torch.export`, `torch.compile` and ONNX work.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from autosample.reuse.schedule import Frame, Pass, Schedule, Vector
from autosample.reuse.task import Task

# Largest count of intermediate numbers of a tile: three quarters of a megabyte.
_TILE = 3 << 16


def convolve(
    x: Float[Tensor, "b c *size"],
    bank: Float[Tensor, "l q"],
    factors: Float[Tensor, "n #g"] | None,
    task: Task,
    frame: Frame,
) -> Float[Tensor, "b n *out"]:
    """The task's convolution without bias, differentiable in input and bank.

    Raises `RuntimeError`, like torch, if the filter does not fit the input.

    Args:
        x: Input, padded according to `frame`.
        bank: `task.source(summary)`, or that of an unrolled task.
        factors: Factors of windows, per filter `(N, 1)` or per window `(N, G)`, or `None`.
    """
    out = frame.out(x.shape[2:])
    if any(n < 1 for n in out):
        raise RuntimeError(f"the kernel {frame.kernel} can't be larger than the padded input, got {tuple(x.shape[2:])}")
    sums = convolve_segments(regroup(x, task), bank.to(x.dtype), task.schedule, frame)
    if x.dtype in (torch.bfloat16, torch.float16):
        sums = sums.float()  # or every one of them would be rounded
    sums = window_sums(sums, task.schedule, frame.stride, out)
    if task.rows.shape[1] > 1:
        return select(sums, task.rows, factors).to(x.dtype)
    y = sums.flatten(1, 3) if task.in_order else pick(sums, task.rows)
    y = y if factors is None else y * factors.to(y.dtype).view(-1, *[1] * (y.dim() - 2))
    return y.to(x.dtype)


def convolve_in_tiles(
    x: Float[Tensor, "b c *size"],
    bank: Float[Tensor, "l q"],
    factors: Float[Tensor, "n #g"] | None,
    task: Task,
    frame: Frame,
) -> Float[Tensor, "b n *out"]:
    """`convolve` for inference: by tiles of examples and of the first axis, so intermediate results stay small."""
    out = frame.out(x.shape[2:])
    added = 2 * task.filters if task.rows.shape[1] > 1 else 0  # outputs so far, and what a window adds to them
    numbers = (task.groups * task.blocks * task.segments * math.prod(frame.stride) + added) * math.prod(out[1:])
    length = max(_TILE // max(numbers, 1), 8)
    if x.shape[0] * out[0] <= length or min(out) < 1:
        return convolve(x, bank, factors, task, frame)
    reach, stride = frame.dilation[0] * (frame.kernel[0] - 1) + 1, frame.stride[0]
    y = x.new_empty(x.shape[0], task.filters, *out)
    batch = max(length // out[0], 1)  # several small maps at once, or pieces of a large one
    for start in range(0, out[0], length):
        count = min(length, out[0] - start)
        begin = start * stride - frame.padding[0][0]
        end = begin + (count - 1) * stride + reach
        first = min(max(begin, 0), x.shape[2])
        last = max(min(end, x.shape[2]), first)  # the rest of a piece is padding
        before = min(max(-begin, 0), end - begin)
        after = end - begin - (last - first) - before
        piece = replace(frame, padding=((before, after), *frame.padding[1:]))
        for example in range(0, x.shape[0], batch):
            part = x[example : example + batch].narrow(2, first, last - first)
            y[example : example + batch].narrow(2, start, count).copy_(convolve(part, bank, factors, task, piece))
    return y


def regroup(x: Float[Tensor, "b c *size"], task: Task) -> Float[Tensor, "b h g q *size"]:
    """Input channels as `(convolution group, channel block, column)`; channel blocks are added if the task folds.

    Surplus columns at the end are zero.
    """
    if task.table is not None:
        x = place_columns(x, task.table, task.groups)
    x = x.unflatten(1, (task.groups, -1))
    surplus = task.splits * task.columns - x.shape[2]
    if surplus:
        x = F.pad(x, [0, 0] * (x.dim() - 3) + [0, surplus])
    x = x.unflatten(2, (task.splits, task.columns))
    return x.sum(2, keepdim=True) if task.fold and task.splits > 1 else x


def place_columns(
    x: Float[Tensor, "b c *size"], table: Int[Tensor, "g q"], groups: int
) -> Float[Tensor, "b columns *size"]:
    """Add every channel to the summary column that it reads, in each convolution group."""
    channels = x.shape[1] // groups
    each = torch.arange(groups, device=table.device)[:, None, None] * table.numel()
    shift = torch.arange(table.shape[0], device=table.device)[:, None] * table.shape[1]
    target = (table + shift + each).flatten(1)[:, :channels].reshape(-1)
    return x.new_zeros(x.shape[0], groups * table.numel(), *x.shape[2:]).index_add(1, target, x)


def convolve_segments(
    x: Float[Tensor, "b h g q *size"], bank: Float[Tensor, "l q"], schedule: Schedule, frame: Frame
) -> Float[Tensor, "b h g j *between"]:
    """`B[j](v) = Σ_s Σ_q Φ[j·step + s, q]·x_q(v + s)` at every `v` that a window sum needs."""
    filters = bank.unflatten(0, (-1, *schedule.segment)).movedim(-1, 1)
    flat, rate = x.flatten(0, 2), schedule.rate(frame.stride)
    padding = tuple(before for before, _ in frame.padding)
    if any(before != after for before, after in frame.padding):
        flat = F.pad(flat, [n for pair in reversed(frame.padding) for n in pair])
        padding = (0,) * len(rate)
    if filters.shape[1] == 1:
        # torch 2.15 takes other strides of an axis of one for channels last, and may then write a wrong layout
        filters = filters.clone(memory_format=torch.contiguous_format)
    conv = F.conv1d if len(rate) == 1 else F.conv2d
    return conv(flat, filters, None, rate, padding, frame.dilation).unflatten(0, x.shape[:3])


def window_sums(
    segments: Float[Tensor, "b h g j *between"], schedule: Schedule, stride: Vector, out: Vector
) -> Float[Tensor, "b h g p *out"]:
    """`D[j](v) = Σ_r B[j + r](v + r·shift)`, pass by pass, at the strided points of the output."""
    rate = schedule.rate(stride)
    every = tuple(s // r for s, r in zip(stride, rate, strict=True))
    # how much of each axis the remaining passes still need
    reach = [r // b for r, b in zip(schedule.reach, rate, strict=True)]
    size = [(n - 1) * e + 1 for n, e in zip(out, every, strict=True)]
    sums = segments
    for axis, n in enumerate(r + s for r, s in zip(reach, size, strict=True)):
        sums = sums.narrow(4 + axis, 0, n)
    for step in schedule.passes:
        shift = tuple(s // b for s, b in zip(step.shift, rate, strict=True))
        sums = _Shifted.apply(sums, Pass(step.count, step.rows, shift))
    for axis, e in enumerate(every):
        if e > 1:
            sums = sums[(slice(None),) * (4 + axis) + (slice(None, None, e),)]
    return sums


def _terms(whole: Tensor, step: Pass) -> list[Tensor]:
    """The shifted views of `whole` that a pass adds."""
    views = []
    for r in range(step.count):
        view = whole.narrow(3, r * step.rows, whole.shape[3] - (step.count - 1) * step.rows)
        for axis, s in enumerate(step.shift):
            view = view.narrow(4 + axis, r * s, whole.shape[4 + axis] - (step.count - 1) * s)
        views.append(view)
    return views


class _Shifted(torch.autograd.Function):
    """A pass of window sums."""

    generate_vmap_rule = True

    @staticmethod
    def forward(whole: Tensor, step: Pass) -> Tensor:
        first, second, *others = _terms(whole, step)
        total = first + second
        for term in others:
            total.add_(term)
        return total

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        whole, ctx.step = inputs
        ctx.shape = whole.shape

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Spread.apply(grad, ctx.step, ctx.shape), None


class _Spread(torch.autograd.Function):
    """Its adjoint: adds the gradient at every shift, instead of padding a copy for each shift."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, step: Pass, shape: torch.Size) -> Tensor:
        whole = grad.new_zeros(shape)
        for view in _terms(whole, step):
            view += grad
        return whole

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.step = inputs[1]

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Shifted.apply(grad, ctx.step), None, None


def select(
    sums: Float[Tensor, "b h g p *out"], rows: Int[Tensor, "n g"], factors: Float[Tensor, "n #g"] | None
) -> Float[Tensor, "b n *out"]:
    """`y[n] = Σ_g factor[n, g]·D_g[rows[n, g]]`."""
    if torch.is_grad_enabled() and sums.requires_grad:
        return _multiply(sums, rows, factors)  # because the adjoint of a gather is a scattered sum
    per_group, ones = rows.long().unflatten(0, (sums.shape[1], -1)), [1] * (sums.dim() - 4)
    total = None
    for g in range(rows.shape[1]):
        picked = [sums[:, h, g].index_select(1, per_group[h][:, g]) for h in range(sums.shape[1])]
        picked = picked[0] if len(picked) == 1 else torch.cat(picked, 1)
        if factors is not None:
            picked = picked * factors[:, min(g, factors.shape[1] - 1)].to(picked.dtype).view(-1, *ones)
        total = picked if total is None else total.add_(picked)
    assert total is not None
    return total


def _multiply(
    sums: Float[Tensor, "b h g p *out"], rows: Int[Tensor, "n g"], factors: Float[Tensor, "n #g"] | None
) -> Float[Tensor, "b n *out"]:
    """`select` as a product with a matrix that has one entry for each window."""
    groups, choices = sums.shape[1], sums.shape[3]
    values = torch.ones_like(rows, dtype=sums.dtype) if factors is None else factors.to(sums.dtype).expand(rows.shape)
    per_group = rows.long().unflatten(0, (groups, -1)).unsqueeze(3)
    empty = values.new_zeros(*per_group.shape[:3], choices)
    choice = empty.scatter(3, per_group, values.reshape(per_group.shape)).flatten(2)
    picked = choice @ sums.flatten(4).flatten(2, 3)
    return picked.flatten(1, 2).unflatten(2, sums.shape[4:])


def pick(sums: Float[Tensor, "b h 1 p *out"], rows: Int[Tensor, "n 1"]) -> Float[Tensor, "b n *out"]:
    """`select` if a filter is one window: rows are copied."""
    groups, choices = sums.shape[1], sums.shape[3]
    shift = torch.arange(groups, device=rows.device).repeat_interleave(rows.shape[0] // groups) * choices
    return sums.flatten(1, 3).index_select(1, rows[:, 0].long() + shift)
