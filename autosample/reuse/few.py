"""Training of convolutions of long signals with few channels in the fused kernel: torch computes them slowly."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autosample.reuse import fused
from autosample.reuse.schedule import Frame
from autosample.reuse.task import dense_task

# Torch's kernels read blocks of 16 channels; with more than these, or with fewer outputs, they are about as fast.
_MOST, _LEAST = 16, 1024


def fits(conv: nn.Module, x: Any, weight: Tensor) -> bool:
    """Whether `convolve` can compute a convolution and is faster. The kernel is built only then.

    Args:
        conv: Any module; all but 1-D convolutions are refused.
        x: Its input.
        weight: Its weight, or what is used in the place of it.
    """
    return (
        isinstance(conv, nn.Conv1d)
        and type(x) is Tensor  # a subclass may not have numbers
        and x.dim() == 3
        and x.shape[1] == weight.shape[1] <= _MOST
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.requires_grad
        and torch.is_grad_enabled()
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and _frame(conv).out(x.shape[2:])[0] >= _LEAST
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and fused.available()
    )


def convolve(
    conv: nn.Conv1d, x: Float[Tensor, "b m t"], weight: Float[Tensor, "n m k"], bias: Float[Tensor, " n"] | None
) -> Float[Tensor, "b n out"]:
    """`torch.nn.functional.conv1d` with the settings of `conv`, differentiable once, where `fits` holds."""
    task = dense_task(weight.shape, conv.dilation)
    y = fused.convolve(x, weight.transpose(1, 2).flatten(0, 1), None, task, _frame(conv))
    return y if bias is None else y + bias.view(-1, 1)


def _frame(conv: nn.Conv1d) -> Frame:
    padding = cast(tuple[int], conv.padding)
    return Frame(conv.kernel_size, conv.stride, conv.dilation, tuple((p, p) for p in padding))
