"""Taps of a convolution that see only padding, as on maps smaller than the kernel."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def seen_taps(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The weight of a convolution, with zeros (and zero gradients) in taps that no number of `x` reaches.

    In half precision, oneDNN leaves the gradients of these taps undefined. A dense layer hardly notices, as nothing
    reads these taps. But windows on a summary overlap, so such a gradient would reach numbers that other taps use.
    """
    if torch.compiler.is_compiling() or not weight.requires_grad or layer.padding_mode != "zeros":
        return weight
    if x.dtype not in _HALF and not _autocast(x.device.type):
        return weight
    sizes = tuple(x.shape[-len(layer.kernel_size) :])
    axes = _reached(
        sizes, tuple(layer._reversed_padding_repeated_twice), layer.kernel_size, layer.stride, layer.dilation
    )
    if axes is None:
        return weight
    mask = torch.ones((), dtype=torch.bool, device=weight.device)
    for reached in axes:
        mask = mask[..., None] & torch.tensor(reached, device=weight.device)
    return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


def _autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


@lru_cache(maxsize=1024)
def _reached(
    sizes: tuple[int, ...],
    padding: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[list[bool]] | None:
    """By axis, whether a number of the input reaches a tap; `None` if all taps are reached."""
    axes = []
    for axis, (size, taps, step, spread) in enumerate(zip(sizes, kernel, stride, dilation, strict=True)):
        after, before = padding[::-1][2 * axis : 2 * axis + 2]  # torch keeps the last axis first
        last = size + before + after - spread * (taps - 1) - 1
        starts = range(-before, last - before + 1, step)
        axes.append([any(0 <= start + tap * spread < size for start in starts) for tap in range(taps)])
    return None if all(map(all, axes)) else axes
