"""Numbers as an exported graph holds them: stored at few bits, and restored by a few standard operators.

A module stores a tensor with `keep` and reads it with `kept`, in a forward pass that can be exported.
"""

import math
from typing import Literal

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from autosample.coding.levels import even_levels
from autosample.coding.packing import bits_for, pack
from autosample.coding.quantizer import Quantizer
from autosample.coding.quantizers import CodebookQuantizer

#: How numbers are rounded: not at all; to 256 levels, evenly spaced from the smallest to the largest; or to whole
#: multiples of a step, from -`MOST` to `MOST`.
Rounding = Literal["", "even", "signed"]

_LEVELS = 256
#: Processors without VNNI add two products of a weight and a byte in 16 bits: 2 · 255 · 64 is the most that fits.
MOST = 64
# Smaller tensors stay unchanged: levels would save little.
_SMALL = 256


def keep(
    owner: nn.Module, name: str, values: Tensor | None, rounding: Rounding = "", quantizer: Quantizer | None = None
) -> None:
    """Store a tensor with a module, at the fewest bits that restore it exactly.

    Quantised tensors are stored as codes and levels (a table, or the lowest and a step). Tensors that fit into half
    precision exactly are stored in it, all others as float32. With `rounding` they are rounded, and stored in bytes;
    numbers that already lie on such a grid come back exactly.
    """
    if values is None:
        owner.register_buffer(name, None)
        return
    values = values.detach().float().cpu().contiguous()
    if quantizer is not None:
        _keep_coded(owner, name, values, quantizer)
    elif rounding and values.numel() >= _SMALL:
        tiny = torch.finfo(torch.float32).tiny
        low, high = values.min(), values.max()
        step = ((high - low) / (_LEVELS - 1)).clamp_min(tiny)
        if rounding == "signed":
            step = (values.abs().max() / MOST).clamp_min(tiny)
            low = -MOST * step
        owner.register_buffer(f"{name}_levels", ((values - low) / step).round().to(torch.uint8))
        owner.register_buffer(f"{name}_low", low)
        owner.register_buffer(f"{name}_step", step)
    else:
        owner.register_buffer(name, values.half() if is_half(values) else values.clone())


def _keep_coded(owner: nn.Module, name: str, values: Tensor, quantizer: Quantizer) -> None:
    owner.register_buffer(f"{name}_codes", pack(quantizer.codes(values).cpu(), quantizer.bits))
    owner.__dict__[f"{name}_shape"] = (quantizer.bits, tuple(values.shape))
    span = None if isinstance(quantizer, CodebookQuantizer) else quantizer.stored_levels(values).cpu()
    if span is not None and span.ndim == 2:
        span = span.T.reshape(2, -1, *[1] * (values.ndim - 1))
    else:
        levels = quantizer.levels(values).cpu()
        if span is None or not torch.equal(even_levels(span, quantizer.bits), levels):
            owner.register_buffer(f"{name}_table", levels.float())
            return
    owner.register_buffer(f"{name}_low", span[0].clone())
    owner.register_buffer(f"{name}_step", span[1].clone())


def is_half(values: Tensor) -> bool:
    """Whether numbers fit into half precision exactly, and are enough to save space."""
    return values.numel() >= _SMALL and torch.equal(values.half().float(), values.float())


def kept(owner: nn.Module, name: str) -> Tensor | None:
    """The float32 tensor that `keep` stored."""
    buffers = owner._buffers
    if (codes := buffers.get(f"{name}_codes")) is not None:
        bits, shape = owner.__dict__[f"{name}_shape"]
        table, total = buffers.get(f"{name}_table"), math.prod(shape)
        if table is not None and table.dim() == 2:  # rows of numbers that share a code
            numbers = unpacked(codes, bits, -(-total // table.shape[1]))
            return table.index_select(0, numbers).reshape(-1)[:total].view(shape)
        numbers = unpacked(codes, bits, total)
        if table is not None:
            return table.index_select(0, numbers).view(shape)
        # equal to those of `even_levels`, to the last bit; levels of filters lie along the first axis
        return numbers.float().view(shape) * owner.get_buffer(f"{name}_step") + owner.get_buffer(f"{name}_low")
    if (levels := buffers.get(f"{name}_levels")) is not None:
        # not DequantizeLinear: runtimes run that at every call, but fold these
        return levels.float() * owner.get_buffer(f"{name}_step") + owner.get_buffer(f"{name}_low")
    values = buffers[name]
    return values if values is None else values.float()


def unpacked(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> Int[Tensor, "count"]:
    """Like `coding.packing.unpack`, in a dozen operators: no shifts, since exporters write them as many operators."""
    if bits == 8:
        return packed.long()
    places = torch.tensor([1 << i for i in range(8)], dtype=torch.int32)
    stream = (packed.int()[:, None] & places) != 0
    values = stream.reshape(-1)[: count * bits].view(count, bits)
    return (values.long() * torch.tensor([1 << i for i in range(bits)])).sum(1)


def stores(owner: nn.Module, name: str) -> bool:
    """Whether `keep` was given a tensor."""
    return any(owner._buffers.get(key) is not None for key in (name, f"{name}_codes", f"{name}_levels"))


def signed_step(owner: nn.Module, name: str) -> Tensor | None:
    """The step of a tensor that `keep` rounded to signed levels, `()`; `None` if it is not one."""
    low, step = (owner._buffers.get(f"{name}_{part}") for part in ("low", "step"))
    return step if low is not None and step is not None and torch.equal(low, -MOST * step) else None


class Packed(nn.Module):
    """A table of integers, packed at the bits they need."""

    packed: Tensor

    def __init__(self, table: Int[Tensor, "*shape"], step: int = 1) -> None:
        super().__init__()
        self.shape, self.step, self.low = tuple(table.shape), step, int(table.min())
        steps = (table - self.low) // step
        self.bits = bits_for(int(steps.max()) + 1)
        if self.bits:
            self.register_buffer("packed", pack(steps, self.bits))

    def forward(self) -> Int[Tensor, "*shape"]:
        if not self.bits:
            return torch.full(self.shape, self.low)
        steps = unpacked(self.packed, self.bits, math.prod(self.shape))
        return steps.view(self.shape) * self.step + self.low
