"""Dense convolutions of few input channels, such as the first one of a net, in the fused kernel.

Torch's kernels read blocks of input channels, so they are slow where there are few. These layers are often left dense,
and then take most of the time of a compressed net.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autosample.reuse import fused
from autosample.reuse.after import After
from autosample.reuse.layer import WindowConv
from autosample.reuse.planner import Plan, timed
from autosample.reuse.schedule import Frame, make_schedule
from autosample.reuse.task import Task
from autosample.reuse.timings import signature

# Torch's kernels for CPUs read blocks of 8 or 16 channels.
_FEW = 8


@dataclass(frozen=True)
class _Whole:
    """The bank of a dense layer: all its filters, one after the other."""

    def __call__(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "l q"]:
        return summary


def few_channels_plan(
    conv: nn.Module, x: Tensor | None, after: After, dense: Callable[[], nn.Module]
) -> tuple[Plan, nn.Module] | None:
    """The fused kernel for a dense convolution, if it is measured to be faster; `None` if not.

    Args:
        conv: A plain `Conv1d` or `Conv2d`; all others stay dense.
        x: A tensor of the shape, type and device of the inputs; `None` if no input is known.
        after: What follows the layer.
        dense: Makes the layer and what follows it, for comparison.
    """
    if x is None or not isinstance(conv, nn.Conv1d | nn.Conv2d) or type(conv) not in (nn.Conv1d, nn.Conv2d):
        return None
    usable = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and x.dim() == conv.weight.dim()
    if not usable or conv.in_channels > _FEW or conv.groups > 1 or conv.padding_mode != "zeros":
        return None
    if isinstance(conv.padding, str) or conv.weight.dtype != x.dtype or not fused.available():
        return None
    frame = Frame(conv.kernel_size, conv.stride, conv.dilation, tuple((p, p) for p in conv.padding))
    if min(frame.out(x.shape[2:])) < after.pool:
        return None
    module = _module(conv, frame, after)
    key = signature(
        x.device, x.dtype, fused.version(), "few", tuple(x.shape), tuple(conv.weight.shape), frame,
        conv.bias is None, after.relu, after.pool,
    )  # fmt: skip
    plan, chosen = timed(key, {"fused": module}, dense, x, {"fused": 1.0})
    return (
        None
        if chosen is None
        else (Plan("fused", f"not converted; {plan.reason}", plan.seconds, plan.dense_seconds), chosen)
    )


def _module(conv: nn.Conv1d | nn.Conv2d, frame: Frame, after: After) -> WindowConv:
    weight = conv.weight.detach()
    if after.scale is not None:
        weight = weight * after.scale.to(weight).view(-1, *[1] * (weight.dim() - 1))
    taps = weight[0, 0].numel()
    task = Task(
        source=_Whole(),
        rows=torch.arange(len(weight), dtype=torch.int32)[:, None],
        segments=len(weight),
        columns=conv.in_channels,
        schedule=make_schedule(taps, frame.kernel, frame.dilation),
        groups=1,
        channels=conv.in_channels,
        splits=1,
        fold=True,
    )
    bank = weight.flatten(2).transpose(1, 2).flatten(0, 1)
    bias = None if after.shift is None else after.shift.to(weight.dtype)
    return WindowConv(task, frame, bank, bias=bias, relu=after.relu, pool=after.pool, kernel=True)
