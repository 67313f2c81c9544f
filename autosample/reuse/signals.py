"""Training of convolutions of signals where torch is slow: long ones with few channels, and those with few outputs.

Torch's kernels for CPUs read blocks of 16 channels, and bring the whole weight into an order of their own before each
use.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.reuse import fused
from autosample.reuse.schedule import Frame
from autosample.reuse.task import dense_task

# The fused kernel is faster up to so many channels, and from so many outputs on.
_FEW, _LONG = 16, 1024
# One product with a matrix is faster up to so many outputs.
_SHORT = 16


def convolve(
    conv: nn.Module, x: Any, weight: Tensor, bias: Float[Tensor, " n"] | None
) -> Float[Tensor, "b n out"] | None:
    """What `torch.nn.functional.conv1d` computes; `None` where torch is as fast, or is needed.

    Args:
        conv: A module with the settings; all but 1-D convolutions in training, in float32 on a CPU, are torch's.
        x: Its input.
        weight: Its weight, or what is used in the place of it.
        bias: Its bias.
    """
    if not isinstance(conv, nn.Conv1d) or not _trains(conv, x, weight):
        return None
    frame = _frame(conv)
    (length,) = frame.out(x.shape[2:])
    if 1 <= length <= _SHORT and conv.dilation == (1,):
        return _by_product(x, weight, bias, frame)
    if length < _LONG or x.shape[1] > _FEW or not fused.available():
        return None
    y = fused.convolve(x, weight.transpose(1, 2).flatten(0, 1), None, dense_task(weight.shape, conv.dilation), frame)
    return y if bias is None else y + bias.view(-1, 1)


def _trains(conv: nn.Conv1d, x: Any, weight: Tensor) -> bool:
    """Whether this is a step of training with ordinary tensors, and nothing else must see a convolution of torch."""
    return (
        type(x) is Tensor  # a subclass may not have numbers
        and x.dim() == 3
        and x.shape[1] == weight.shape[1]
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.requires_grad
        and torch.is_grad_enabled()
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def _frame(conv: nn.Conv1d) -> Frame:
    padding = cast(tuple[int], conv.padding)
    return Frame(conv.kernel_size, conv.stride, conv.dilation, tuple((p, p) for p in padding))


def _by_product(
    x: Float[Tensor, "b m t"], weight: Float[Tensor, "n m k"], bias: Float[Tensor, " n"] | None, frame: Frame
) -> Float[Tensor, "b n out"]:
    """All windows of the input as rows of a matrix, times the weight."""
    windows = F.pad(x, frame.padding[0]).unfold(2, *frame.kernel, *frame.stride).transpose(1, 2)
    return F.linear(windows.flatten(2), weight.flatten(1), bias).transpose(1, 2)
