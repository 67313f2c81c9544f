"""Dense convolutions that torch computes slowly, in the fused kernel.

Torch's kernels read blocks of input channels, so they are slow where there are few, as in the first layer of a net. For
1×1 taps with a stride, they read the whole map. These layers often stay dense, and then take much of the time of a
compressed net.
"""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from autosample.reuse import fused
from autosample.reuse.after import After
from autosample.reuse.layer import WindowConv
from autosample.reuse.planner import Plan, timed
from autosample.reuse.schedule import Frame
from autosample.reuse.task import dense_task
from autosample.reuse.timings import signature

# Torch's kernels for CPUs read blocks of 8 or 16 channels; for signals they are slow with more, too.
_FEW = {nn.Conv1d: 64, nn.Conv2d: 8}


def is_slow(conv: nn.Module, x: Tensor | None) -> bool:
    """Whether the kernel can compute a dense convolution, and torch is likely to be slow.

    Args:
        conv: Any module; all but plain convolutions of few channels, or of 1×1 taps with a stride, are refused.
        x: A tensor of the shape, type and device of the inputs; `None` if no input is known.
    """
    few = _FEW.get(type(conv), 0)
    if x is None or not few:
        return False
    conv = cast(nn.Conv1d | nn.Conv2d, conv)
    leaps = max(conv.kernel_size) == 1 < max(conv.stride)
    if conv.in_channels > few and not leaps:
        return False
    if conv.groups > 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    alike = x.dim() == conv.weight.dim() and x.dtype == conv.weight.dtype
    return alike and fused.takes(x.device, x.dtype) and fused.available()


def slow_plan(
    conv: nn.Conv1d | nn.Conv2d, x: Tensor, after: After, dense: Callable[[], nn.Module]
) -> tuple[Plan, nn.Module] | None:
    """The fused kernel for such a convolution, if it is measured to be faster; `None` if not.

    Args:
        conv, x: As for `is_slow`, which must hold.
        after: What follows the layer.
        dense: Makes the layer and what follows it, for comparison.
    """
    frame = Frame(conv.kernel_size, conv.stride, conv.dilation, tuple((int(p), int(p)) for p in conv.padding))
    if min(frame.out(x.shape[2:])) < after.pool:
        return None
    module = _module(conv, frame, after)
    key = signature(
        x.device, x.dtype, fused.version(), "slow", tuple(x.shape), tuple(conv.weight.shape), frame,
        conv.bias is None, after.relu, after.pool,
    )  # fmt: skip
    plan, chosen = timed(key, {"fused": module}, dense, x, {"fused": 1.0})
    return None if chosen is None else (plan, chosen)


def _module(conv: nn.Conv1d | nn.Conv2d, frame: Frame, after: After) -> WindowConv:
    weight = conv.weight.detach()
    if after.scale is not None:
        weight = weight * after.scale.to(weight).view(-1, *[1] * (weight.dim() - 1))
    task = dense_task(weight.shape, frame.dilation)
    bank = weight.flatten(2).transpose(1, 2).flatten(0, 1)
    bias = None if after.shift is None else after.shift.to(weight.dtype)
    return WindowConv(task, frame, bank, bias=bias, relu=after.relu, pool=after.pool, kernel=True)
