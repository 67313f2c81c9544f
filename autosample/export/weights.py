"""Weights as a file holds them: stored tensors, and the operators that make the weight from them.

Nothing here is as large as a weight: positions are packed, hashed or spaced as the model stores them, and a runtime
folds what follows from constants, once when it loads the file, into the dense weight or the bank that it computes with.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from autosample.coding.levels import even_levels, nearest_level
from autosample.coding.packing import bits_for, pack
from autosample.coding.quantizers import LinearQuantizer, Quantizer
from autosample.nn import SummaryLayer
from autosample.reuse.task import Slice, Task, Widened
from autosample.sampling import Offsets, random_signs
from autosample.sampling.hashing import random_positions
from autosample.sampling.rules.random import RandomOffsets
from autosample.sampling.rules.separable import SeparableOffsets

_LEVELS = 256
# Smaller tensors stay as they are: levels would save little.
_SMALL = 256
# What the operators that hash positions weigh in a file [bytes]: a table of fewer bytes is written instead.
_HASH = 2000


def keep(
    owner: nn.Module, name: str, values: Tensor | None, int8: bool = False, quantizer: Quantizer | None = None
) -> None:
    """Store a tensor with a module, at as few bits as give it back exactly.

    What has been quantised is stored as codes and its levels (a table, or the lowest and a step), what fits into half
    precision in that, and all else as float32. With `int8` it is rounded to 256 levels, evenly spaced from its smallest
    to its largest number; numbers that lie on such a grid already come back exactly.
    """
    if values is None:
        owner.register_buffer(name, None)
        return
    values = values.detach().float().cpu().contiguous()
    if quantizer is not None:
        levels = quantizer.levels(values).cpu()
        codes = nearest_level(values, levels)
        owner.register_buffer(f"{name}_codes", pack(codes, quantizer.bits))
        span = quantizer.stored_levels(values).cpu() if isinstance(quantizer, LinearQuantizer) else None
        if span is not None and torch.equal(even_levels(span, quantizer.bits), levels):
            owner.register_buffer(f"{name}_low", span[0].clone())
            owner.register_buffer(f"{name}_step", span[1].clone())
        else:
            owner.register_buffer(f"{name}_table", levels.float())
        owner.__dict__[f"{name}_shape"] = (quantizer.bits, tuple(values.shape))
    elif int8 and values.numel() >= _SMALL:
        low, high = values.min(), values.max()
        step = ((high - low) / (_LEVELS - 1)).clamp_min(torch.finfo(torch.float32).tiny)
        owner.register_buffer(f"{name}_levels", ((values - low) / step).round().to(torch.uint8))
        owner.register_buffer(f"{name}_low", low)
        owner.register_buffer(f"{name}_step", step)
    else:
        owner.register_buffer(name, values.half() if is_half(values) else values.clone())


def is_half(values: Tensor) -> bool:
    """Whether numbers fit into half precision exactly, and are many enough for that to matter."""
    return values.numel() >= _SMALL and torch.equal(values.half().float(), values.float())


def kept(owner: nn.Module, name: str) -> Tensor | None:
    """The float32 tensor that `keep` stored."""
    buffers = owner._buffers
    if (codes := buffers.get(f"{name}_codes")) is not None:
        bits, shape = owner.__dict__[f"{name}_shape"]
        numbers = unpacked(codes, bits, math.prod(shape))
        if (table := buffers.get(f"{name}_table")) is not None:
            return table.index_select(0, numbers).view(shape)
        # as `even_levels` makes them, to the last bit
        return (numbers.float() * owner.get_buffer(f"{name}_step") + owner.get_buffer(f"{name}_low")).view(shape)
    if (levels := buffers.get(f"{name}_levels")) is not None:
        # not DequantizeLinear: runtimes leave that for every call, and fold these
        return levels.float() * owner.get_buffer(f"{name}_step") + owner.get_buffer(f"{name}_low")
    values = buffers[name]
    return values if values is None else values.float()


def unpacked(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> Int[Tensor, "count"]:
    """As `sampling.packing.unpack`, in a dozen operators and without shifts, of which exporters make many."""
    if bits == 8:
        return packed.long()
    places = torch.tensor([1 << i for i in range(8)], dtype=torch.int32)
    stream = (packed.int()[:, None] & places) != 0
    values = stream.reshape(-1)[: count * bits].view(count, bits)
    return (values.long() * torch.tensor([1 << i for i in range(bits)])).sum(1)


def stores(owner: nn.Module, name: str) -> bool:
    """Whether `keep` was given a tensor."""
    return any(owner._buffers.get(key) is not None for key in (name, f"{name}_codes", f"{name}_levels"))


class PlainWeight(nn.Module):
    """The weight of a layer that samples nothing."""

    def __init__(self, weight: Tensor, int8: bool) -> None:
        super().__init__()
        keep(self, "weight", weight, int8)

    def forward(self) -> Tensor:
        weight = kept(self, "weight")
        assert weight is not None
        return weight


class Packed(nn.Module):
    """A table of integers at the bits they need."""

    packed: Tensor

    def __init__(self, table: Int[Tensor, "n g"], step: int = 1) -> None:
        super().__init__()
        self.shape, self.step, self.low = tuple(table.shape), step, int(table.min())
        steps = (table - self.low) // step
        self.bits = bits_for(int(steps.max()) + 1)
        if self.bits:
            self.register_buffer("packed", pack(steps, self.bits))

    def forward(self) -> Int[Tensor, "n g"]:
        if not self.bits:
            return torch.full(self.shape, self.low)
        steps = unpacked(self.packed, self.bits, self.shape[0] * self.shape[1])
        return steps.view(self.shape) * self.step + self.low


class Spaced(nn.Module):
    """Positions of a fixed stride: stores nothing."""

    def __init__(self, rule: Offsets) -> None:
        super().__init__()
        self.places = rule.places

    def forward(self) -> Int[Tensor, "n g"]:
        from autosample.sampling.rules.base import strided_positions

        return strided_positions(self.places, None)


class Hashed(nn.Module):
    """Positions hashed from a seed."""

    seed: Tensor

    def __init__(self, rule: RandomOffsets) -> None:
        super().__init__()
        self.places = rule.places
        self.register_buffer("seed", rule.seed.detach().cpu().clone())

    def forward(self) -> Int[Tensor, "n g"]:
        p = self.places
        return random_positions(self.seed, p.filters, p.groups, p.choices) * p.grid


class Added(nn.Module):
    """Two tables that broadcast to one another."""

    def __init__(self, rule: SeparableOffsets) -> None:
        super().__init__()
        self.along, self.across = stored_positions(rule.along), stored_positions(rule.across)

    def forward(self) -> Int[Tensor, "n g"]:
        return self.along() + self.across()


def stored_positions(rule: Offsets) -> nn.Module:
    """The module that gives a hardened rule's integer positions from what the rule stores, or from a smaller table."""
    from autosample.sampling.rules.strided import StridedOffsets

    if isinstance(rule, RandomOffsets):
        p = rule.places
        few = p.filters * p.groups * bits_for(p.choices) < 8 * _HASH
        return _packed(rule) if few else Hashed(rule)
    if isinstance(rule, StridedOffsets):
        return Spaced(rule)
    if isinstance(rule, SeparableOffsets):
        return Added(rule)
    return _packed(rule)


def _packed(rule: Offsets) -> Packed:
    return Packed(rule.positions().long().cpu(), rule.places.grid)


class SampledWeight(nn.Module):
    """The weight of a summary layer, sampled in the graph.

    Args:
        layer: Hardened.
        scale: What a norm multiplies filters by, `(N,)` or `None`.
        int8: Whether summary and mixing matrix are kept at 256 levels.
    """

    sign_seed: Tensor | None

    def __init__(self, layer: SummaryLayer, scale: Tensor | None, int8: bool) -> None:
        super().__init__()
        self.geometry = layer.geometry
        keep(self, "summary", layer.summary, int8, layer.quantizer("summary"))
        keep(self, "gains", layer.gains, quantizer=layer.quantizer("gains"))
        keep(self, "mix", layer.densify, int8, layer.quantizer("densify"))
        keep(self, "scale", scale)
        seed = layer.sign_seed
        self.register_buffer("sign_seed", None if seed is None else seed.detach().cpu().clone())
        self.positions = stored_positions(layer.offsets)
        self.columns = None if layer.columns is None else Packed(layer.columns.table().cpu())

    def bank(self) -> Float[Tensor, "l q"]:
        """The summary."""
        summary = kept(self, "summary")
        assert summary is not None
        return summary

    def factors(self) -> Float[Tensor, "n #g"] | None:
        """Signs times gains, and the norm's scale where nothing mixes filters afterwards."""
        factors = kept(self, "gains")
        if self.sign_seed is not None:
            signs = random_signs(self.sign_seed, self.geometry.sampled, self.geometry.windows, torch.float32)
            factors = signs if factors is None else signs * factors
        scale = kept(self, "scale")
        if scale is None or self.mixes:
            return factors
        return scale[:, None] if factors is None else factors * scale[:, None]

    @property
    def mixes(self) -> bool:
        """Whether filters are mixed after they have been sampled."""
        return stores(self, "mix")

    def mixing(self) -> Float[Tensor, "m n"] | None:
        """The mixing matrix, scaled."""
        mix, scale = kept(self, "mix") if self.mixes else None, kept(self, "scale")
        return mix if mix is None or scale is None else mix * scale[:, None]

    def segments(self, task: Task) -> Int[Tensor, "n windows"]:
        """The segment of a task's bank that each window begins with."""
        assert isinstance(task.source, Slice | Widened)
        low = task.source.start if isinstance(task.source, Slice) else task.source.starts[0]
        positions = self.positions()[:, : task.rows.shape[1]]
        return ((positions - low) // task.schedule.step).expand(task.rows.shape)

    def forward(self, folded: bool = False) -> Float[Tensor, "n m *kernel"]:
        """The weight; with `folded`, that of one channel group, for layers whose groups are all alike."""
        g, positions, summary = self.geometry, self.positions(), self.bank()
        if folded:
            channels = g.columns if g.layout == "taps" else g.window // g.taps
            g, positions = replace(g, windows=1, channels=channels), positions[:, :1]
        positions = positions.expand(g.sampled, g.windows)
        if self.columns is not None:
            wide = summary.index_select(1, self.columns().reshape(-1)).view(-1, g.windows, g.columns)
            summary = wide.transpose(0, 1).reshape(-1, g.columns)
            positions = positions + torch.arange(g.windows) * g.length
        rows = (positions.reshape(-1, 1) + torch.arange(g.window)).reshape(-1)
        windows = summary.index_select(0, rows).view(g.sampled, g.windows, g.window, g.columns).transpose(2, 3)
        factors, mixing = self.factors(), self.mixing()
        if factors is not None:
            windows = windows * factors[:, :, None, None]
        weight = g.to_weight(windows)
        return weight if mixing is None else (mixing @ weight.flatten(1)).view(-1, *weight.shape[1:])
