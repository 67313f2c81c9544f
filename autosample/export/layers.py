"""Layers in a form that is fast in other runtimes: few standard operators, known shapes, signals as flat images.

onnxruntime convolves an image of height 1 about three times as fast as the same signal.
"""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.utils import _single

from autosample.coding.written import keep, kept
from autosample.nn.lineage import Lineage, forget
from autosample.nn.planning import layer_frame
from autosample.nn.written import SampledWeight
from autosample.reuse.schedule import Pass, Vector
from autosample.reuse.task import Task


class Conv(nn.Module):
    """What all convolutions share: padding, conversion of signals to flat images and back, and what was folded in.

    Args:
        layer: The convolution that this one replaces.
        bias: `(N,)` or `None`.
        origin: Holds what was folded in, if the layer is a deployed one.
    """

    def __init__(self, layer: Any, bias: Tensor | None, origin: Lineage | None) -> None:
        super().__init__()
        self.frame, self.pad = layer_frame(layer)
        self.groups = layer.groups
        self.relu, self.pool = (origin.after.relu, origin.after.pool) if origin else (False, 1)
        keep(self, "bias", bias)
        for name in cast(Any, layer).__constants__:  # a model may read its kernel size, for example
            setattr(self, name, getattr(layer, name))

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        axes = len(self.frame.kernel)
        if input.dim() == axes + 1:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        x = input if self.pad is None else F.pad(input, self.pad[0], self.pad[1])
        y = self.convolve(x.unsqueeze(2) if axes == 1 else x)
        y = F.relu(y) if self.relu else y
        y = F.max_pool2d(y, (1, self.pool)) if self.pool > 1 else y
        return y.squeeze(2) if axes == 1 else y

    def convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        raise NotImplementedError

    def padded(self, x: Tensor) -> tuple[Tensor, Vector]:
        """The input, and the padding that the convolution does itself, which must be the same on both sides."""
        pairs = two(self.frame.padding, (0, 0))
        if all(before == after for before, after in pairs):
            return x, tuple(before for before, _ in pairs)
        return F.pad(x, [n for pair in reversed(pairs) for n in pair]), (0,) * len(pairs)


class DirectConv(Conv):
    """One convolution.

    With `splits` above 1, channel blocks that have the same filters are added first; with `product`, by a convolution.
    """

    def __init__(
        self,
        layer: Any,
        weight: nn.Module,
        bias: Tensor | None,
        origin: Lineage | None = None,
        splits: int = 1,
        product: bool = False,
    ) -> None:
        super().__init__(layer, bias, origin)
        self.sampled, self.splits, self.product = weight, splits, product
        self.columns = -(-layer.in_channels // layer.groups // splits)
        self.surplus = self.columns * splits - layer.in_channels // layer.groups

    def convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        weight = self.sampled(folded=True) if self.splits > 1 else self.sampled()
        weight = weight.unsqueeze(2) if weight.dim() == 3 else weight
        x, padding = self.padded(self._fold(x) if self.splits > 1 else x)
        stride, dilation = two(self.frame.stride), two(self.frame.dilation)
        convolve = F.conv3d if weight.dim() == 5 else F.conv2d
        return convolve(x, weight, kept(self, "bias"), stride, padding, dilation, self.groups)

    def _fold(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b q h w"]:
        return multiply_out(x, self.columns) if self.product else fold(x, self.groups, self.splits, self.surplus)


class SummedConv(Conv):
    """Convolve the segments of the summary once; windows are sums of shifted segments, filters are selected rows."""

    def __init__(
        self,
        layer: nn.Conv1d | nn.Conv2d,
        weight: SampledWeight,
        origin: Lineage,
        task: Task,
        product: bool = False,
    ) -> None:
        super().__init__(layer, origin.after.shift, origin)
        self.product = product
        self.sampled, self.task, self.in_order = weight, task, task.in_order  # determined now: a trace cannot

    def convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        task, batch = self.task, x.shape[0]
        surplus = task.splits * task.columns - task.channels
        if task.fold and task.splits > 1:
            x = multiply_out(x, task.columns) if self.product else fold(x, 1, task.splits, surplus)
        elif task.splits > 1:
            x = F.pad(x, (0, 0, 0, 0, 0, surplus)) if surplus else x
            x = x.reshape(-1, task.columns, *x.shape[2:])
        y = self._sums(x)
        y = y.reshape(batch, task.blocks * task.choices, *y.shape[2:]) if task.blocks > 1 else y
        return self._select(y)

    def _sums(self, x: Float[Tensor, "b q h w"]) -> Float[Tensor, "b p h w"]:
        schedule = self.task.schedule
        rate = schedule.rate(self.frame.stride)
        bank = self.task.source(self.sampled.bank())
        filters = bank.unflatten(0, (-1, *two(schedule.segment))).movedim(-1, 1)
        x, padding = self.padded(x)
        y = F.conv2d(x, filters, None, two(rate), padding, two(self.frame.dilation))
        for step in schedule.passes:
            shift = two(tuple(s // r for s, r in zip(step.shift, rate, strict=True)), 0)
            y = _shifted(y, Pass(step.count, step.rows, shift))
        down, along = two(tuple(s // r for s, r in zip(self.frame.stride, rate, strict=True)))
        return y[:, :, ::down, ::along] if max(down, along) > 1 else y

    def _select(self, y: Float[Tensor, "b p h w"]) -> Float[Tensor, "b n h w"]:
        task, bias, mixing = self.task, kept(self, "bias"), self.sampled.mixing()
        factors = self.sampled.factors()
        if mixing is None and task.blocks == 1 and task.rows.shape[1] == 1:
            y = y if self.in_order else y.index_select(1, self.sampled.segments(task)[:, 0])
            y = y if factors is None else y * factors[:, :, None]
            return y if bias is None else y + bias[:, None, None]
        rows = self.sampled.segments(task).unsqueeze(2) == torch.arange(task.choices)
        choice = rows.float() if factors is None else rows * factors[:, :, None]
        choice = choice.flatten(1) if mixing is None else mixing @ choice.flatten(1)
        return F.conv2d(y, choice[:, :, None, None], bias)


class FlatPool(nn.MaxPool1d):
    """`torch.nn.MaxPool1d` over a flat image."""

    def forward(self, input: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        if input.dim() != 3:
            return cast(Tensor, super().forward(input))
        (size,), (stride,), (padding,), (dilation,) = map(
            _single, (self.kernel_size, self.stride, self.padding, self.dilation)
        )
        flat = input.unsqueeze(2)
        y = F.max_pool2d(flat, (1, size), (1, stride), (0, padding), (1, dilation), ceil_mode=self.ceil_mode)
        return y.squeeze(2)


def fold(x: Float[Tensor, "b c h w"], groups: int, splits: int, surplus: int) -> Float[Tensor, "b q h w"]:
    """Add the channel blocks within each convolution group."""
    if groups > 1:
        x = x.unflatten(1, (groups, -1))
        x = F.pad(x, (0, 0, 0, 0, 0, surplus)) if surplus else x
        return x.unflatten(2, (splits, -1)).sum(2).flatten(1, 2)
    x = F.pad(x, (0, 0, 0, 0, 0, surplus)) if surplus else x
    while splits % 2 == 0:  # halves: few operators, and long contiguous memory
        splits //= 2
        first, second = x.chunk(2, 1)
        x = first + second
    first, *others = x.chunk(splits, 1) if splits > 1 else (x,)
    for other in others:
        first = first + other
    return first


def multiply_out(x: Float[Tensor, "b c h w"], columns: int) -> Float[Tensor, "b q h w"]:
    """The same as a convolution with ones and zeros: one operator, if there is little to multiply."""
    ones = torch.arange(columns)[:, None] == torch.arange(x.shape[1]) % columns
    return F.conv2d(x, ones.float()[:, :, None, None])


def _shifted(whole: Float[Tensor, "b p h w"], step: Pass) -> Float[Tensor, "b p h w"]:
    """`D[j](v) = Σ_r whole[j + r·rows](v + r·shift)`; slices count from both ends, so any size works."""
    total = None
    for r in range(step.count):
        term = whole
        for axis, by in enumerate((step.rows, *step.shift), start=1):
            first, last = r * by, (step.count - 1 - r) * by
            if first or last:
                term = term[(slice(None),) * axis + (slice(first, -last if last else None),)]
        total = term if total is None else total + term
    assert total is not None
    return total


def two(vector: tuple, missing: Any = 1) -> tuple:
    """A vector of one axis as one of two; of more axes, the vector itself."""
    return (missing, *vector) if len(vector) == 1 else tuple(vector)


def with_weight(layer: nn.Module, weight: nn.Module) -> nn.Module:
    """A copy of a torch layer, or of a subclass of one, whose weight is computed in the graph."""
    kind = type(layer)
    made = copy.copy(layer)
    for store in ("_parameters", "_buffers", "_modules"):  # a shallow copy shares these
        made.__dict__[store] = dict(layer.__dict__[store])
    del made._parameters["weight"]
    made.__class__ = type(f"Stored{kind.__name__}", (kind,), {"weight": property(lambda self: self.sampled())})
    made.sampled = weight
    forget(made)
    return made


def flat_pool(pool: nn.MaxPool1d) -> nn.Module:
    """The same pool over flat images."""
    made = FlatPool(pool.kernel_size, pool.stride, pool.padding, pool.dilation, ceil_mode=pool.ceil_mode)
    return made.eval()
