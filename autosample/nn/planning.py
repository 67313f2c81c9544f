"""What a summary layer computes if its windows share work, and its plan for inference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autosample.nn.kinds import is_plain
from autosample.reuse.after import After
from autosample.reuse.planner import Plan, choose
from autosample.reuse.plans import Operands
from autosample.reuse.plans.base import Pad
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task, make_task


def reusable(layer: Any) -> str:
    """Why a layer cannot reuse work, at any offsets; empty if it can."""
    kind: type[nn.Module] = layer.dense_class
    if issubclass(kind, nn.Conv3d):
        return "work is shared along one or two axes, not three"
    if not issubclass(kind, nn.Conv1d | nn.Conv2d):
        return "no taps to slide along"
    if not is_plain(kind):
        return f"{kind.__name__} has its own forward pass"
    if layer.folds is not None:
        return "its channel groups have signs"
    # a mixed filter is a sum of filters of all groups, and each must see the input of its own
    return "its mixed filters belong to several groups" if layer.groups > 1 and layer.densify is not None else ""


@torch.no_grad()
def layer_task(layer: Any) -> Task | None:
    """The task of a convolution at its present offsets; `None` if offsets are not integers or share no work."""
    placement = layer.offsets.placement()
    if placement.weights is not None or placement.pattern is not None or placement.base.is_meta:
        return None
    return make_task(
        placement.base.expand(layer.geometry.sampled, layer.geometry.windows),
        layer.geometry,
        dilation=tuple(layer.dilation),
        groups=layer.groups,
        per_window=layer.sign_seed is not None and layer.geometry.windows > 1,
        table=None if layer.columns is None else layer.columns.table(),
    )


def layer_frame(layer: Any) -> tuple[Frame, Pad | None]:
    """Where the filters are applied, and the padding before it, if that is not zeros."""
    flat = list(layer._reversed_padding_repeated_twice)
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True))[::-1]
    other = layer.padding_mode != "zeros"
    padding = tuple((0, 0) for _ in pairs) if other else pairs
    frame = Frame(tuple(layer.kernel_size), tuple(layer.stride), tuple(layer.dilation), padding)
    return frame, (flat, layer.padding_mode) if other else None


def summary_plan(
    layer: Any, x: Tensor | None, after: After, dense: Callable[[], nn.Module], *, measure: bool, fuse: bool
) -> tuple[Plan, nn.Module | None]:
    """The plan of a summary layer for an input like `x`, and its module; `None` for the module if it stays dense.

    Args:
        layer: A hardened layer.
        x: A tensor of the shape, type and device of the inputs, with any numbers; `None` if no input is known.
        after: What follows the layer.
        dense: Makes the dense layer and what follows it, for comparison.
        measure, fuse: As for `deploy`.
    """
    if why := reusable(layer):
        return Plan("dense", why), None
    task = layer_task(layer)
    if task is None:
        return Plan("dense", "its windows share no work"), None
    if x is None:
        return Plan("dense", "the example does not reach it"), None
    frame, pad = layer_frame(layer)
    shape = tuple(x.shape) if x.dim() > len(frame.kernel) + 1 else (1, *x.shape)
    operands = layer_operands(layer, after, pad)
    return choose(task, frame, shape, operands, dense, device=x.device, dtype=x.dtype, fuse=fuse, measure=measure)


def layer_operands(layer: Any, after: After, pad: Pad | None) -> Operands:
    """The tensors of a layer after a norm is folded into the mixing matrix or, without one, into the factors."""
    bias = None if after.shift is None else after.shift.to(layer.summary.dtype)
    factors, mix = layer.signs(), layer.densify
    if after.scale is not None and mix is not None:
        mix = mix * after.scale.to(mix)[:, None]
    elif after.scale is not None:
        scale = after.scale.to(layer.summary)[:, None]
        factors = scale if factors is None else factors * scale
    return Operands(layer.summary, factors, bias, mix, pad, after.relu, after.pool)
