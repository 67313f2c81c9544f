"""Batch norm, max-pool and ReLU of a signal in training, in one pass: see `csrc/norm_pool.cpp`."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autosample.reuse import fused
from autosample.system.hooks import has_hooks

# Smaller signals stay in the processor's caches, and standard operators are as fast.
_LEAST = 1 << 19


def fits(x: Tensor, norm: nn.Module, pool: nn.Module, act: nn.Module) -> bool:
    """Whether `norm_pool_relu` can replace these modules and is faster. The kernel is built only then."""
    return (
        type(x) is Tensor  # a subclass may not have numbers
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() == 3
        and x.numel() >= _LEAST
        and _is_plain_norm(norm)
        and _is_plain_pool(pool, x.shape[2])
        and type(act) is nn.ReLU
        and not has_hooks(norm, pool, act)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and fused.available()
    )


def _is_plain_norm(norm: nn.Module) -> bool:
    """Whether the norm is torch's own, uses the statistics of the batch, and has all its parameters and buffers."""
    if type(norm) is not nn.BatchNorm1d or not norm.training:
        return False
    return norm.affine and norm.track_running_stats and norm.momentum is not None and norm.weight.dtype == torch.float32


def _is_plain_pool(pool: nn.Module, length: int) -> bool:
    """Whether windows are adjacent and fit the input; if they do not fit, torch raises an error."""
    if type(pool) is not nn.MaxPool1d or pool.return_indices:
        return False
    size = pool.kernel_size
    plain = (pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (size, 0, 1, False)
    return plain and isinstance(size, int) and 1 < size <= min(256, length)


def norm_pool_relu(x: Float[Tensor, "b c t"], norm: nn.BatchNorm1d, pool: nn.MaxPool1d) -> Float[Tensor, "b c p"]:
    """`relu(pool(norm(x)))` in training, differentiable once. The norm's running statistics are updated as usual.

    Only for what `fits`.
    """
    y, mean, variance = _NormPool.apply(x.contiguous(), norm.weight, norm.bias, norm.eps, pool.kernel_size)
    count, state = x.numel() // x.shape[1], cast(Any, norm)
    with torch.no_grad():
        state.num_batches_tracked.add_(1)
        state.running_mean.lerp_(mean.to(state.running_mean.dtype), state.momentum)
        state.running_var.lerp_((variance * (count / (count - 1))).to(state.running_var.dtype), state.momentum)
    return y


class _NormPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: int) -> tuple[Tensor, Tensor, Tensor]:
        y, extreme, place, mean, variance = torch.ops.autosample.norm_pool(x, weight, bias, eps, pool)
        ctx.save_for_backward(x, y, extreme, place, mean, variance, weight)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps, ctx.pool = eps, pool
        return y, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _mean, _variance):  # pyright: ignore[reportIncompatibleMethodOverride]
        backward = torch.ops.autosample.norm_pool_backward
        return *backward(grad.contiguous(), *ctx.saved_tensors, ctx.eps, ctx.pool), None, None
