"""Weights as a file holds them: stored tensors, and the operators that make the weight from them.

Nothing here is as large as a weight: positions are packed, hashed or spaced as the model stores them, and a runtime
folds what follows from constants, once when it loads the file, into the dense weight or the bank that it computes with.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.coding.packing import bits_for
from autosample.coding.written import Packed, keep, kept, stores
from autosample.nn import SummaryLayer
from autosample.reuse.task import Slice, Task, Widened
from autosample.sampling import Offsets, random_signs
from autosample.sampling.hashing import random_positions
from autosample.sampling.rules.random import RandomOffsets
from autosample.sampling.rules.separable import SeparableOffsets

# What the operators that hash positions weigh in a file [bytes]: a table of fewer bytes is written instead.
_HASH = 2000


class PlainWeight(nn.Module):
    """The weight of a layer that samples nothing."""

    def __init__(self, weight: Tensor, int8: bool) -> None:
        super().__init__()
        keep(self, "weight", weight, int8)

    def forward(self) -> Tensor:
        weight = kept(self, "weight")
        assert weight is not None
        return weight


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
