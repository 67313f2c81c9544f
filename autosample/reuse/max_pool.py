"""Max-pools of images in the usual layout, for inference: torch's own are many times slower than with channels last."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autosample.reuse import fused
from autosample.system.hooks import has_hooks
from autosample.system.tracing import is_exporting, keep_whole


class MaxPool2d(nn.MaxPool2d):
    """torch's module, in the fused kernel where that can be used: for inference, made by `autosample.deploy`.

    Args:
        pool: A pool without dilation and ceil mode.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        kernel, stride, padding = (_pair(n) for n in (pool.kernel_size, pool.stride, pool.padding))
        super().__init__(kernel, stride, padding)
        keep_whole(self)
        self._frame = [*kernel, *stride, *padding]
        self._ready = fused.available()

    def forward(self, input: Float[Tensor, "*b c h w"]) -> Any:
        last = not input.is_contiguous()
        if not self._ready or last or input.dim() != 4 or not fused.fits(input) or is_exporting():
            return super().forward(input)
        return torch.ops.autosample.max_pool2d(input, self._frame)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._ready = fused.available()  # another machine may have no compiler


def _pair(n: int | tuple[int, int]) -> tuple[int, int]:
    return (n, n) if isinstance(n, int) else n


def use_fast_pools(model: nn.Module) -> None:
    """Replace the plain max-pools of images in a model; builds the kernel if there are any."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MaxPool2d) and _is_plain(child) and fused.available():
                setattr(module, name, MaxPool2d(child).train(child.training))


def _is_plain(pool: nn.MaxPool2d) -> bool:
    if type(pool) is not nn.MaxPool2d or pool.return_indices or "forward" in vars(pool):
        return False
    plain = _pair(pool.dilation) == (1, 1) and not pool.ceil_mode
    return plain and not has_hooks(pool)
