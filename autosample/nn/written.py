"""Weights as an exported graph holds them: stored tensors, and the operators that compute the weight from them.

No stored tensor here is as large as the weight of a compressed layer: offsets are packed, hashed or spaced, as in the
model. A runtime runs these operators once, at load time.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.coding.written import Packed, Rounding, keep, kept, signed_step, stores
from autosample.reuse.task import Slice, Task, Widened
from autosample.sampling.folds import hadamard
from autosample.sampling.geometry import Geometry
from autosample.sampling.hashing import random_signs
from autosample.sampling.rules.blocks import apart
from autosample.sampling.selection import Selection
from autosample.sampling.signs import LearnedSigns


class PlainWeight(nn.Module):
    """The weight of a dense layer."""

    def __init__(self, weight: Tensor, rounding: Rounding) -> None:
        super().__init__()
        keep(self, "weight", weight, rounding)

    def forward(self) -> Tensor:
        weight = kept(self, "weight")
        assert weight is not None
        return weight


class ComposedWeight(nn.Module):
    """The weight of a compressed layer, composed in the graph in the same way as in the layer.

    Args:
        layer: A hardened layer; its `compose` must use operators that torch can export.
        scale: Factors of a norm for the weight along its first axis, `(N,)`, or `None`.
        rounding: Of coded tensors without a quantizer.
    """

    def __init__(self, layer: Any, scale: Tensor | None, rounding: Rounding) -> None:
        super().__init__()
        for name in layer.coded:
            keep(self, name, getattr(layer, name), rounding, layer.quantizer(name))
        keep(self, "scale", scale)
        self.coded = layer.coded
        self.layer = copy.copy(layer)  # everything else that `compose` may use
        for store in ("_parameters", "_buffers", "_modules"):  # a shallow copy shares these
            self.layer.__dict__[store] = dict(layer.__dict__[store])
        for name in layer.coded:
            del self.layer._parameters[name]
        self.layer.bias = None  # it belongs to the layer around this one
        self.layer._modules.pop("quantizers", None)

    def steps(self) -> Float[Tensor, "*n"] | None:
        """If the weight may be whole multiples of a step, or of one for each filter, these steps: `()` or `(N,)`."""
        return _steps(self, *self.coded)

    def forward(self) -> Float[Tensor, "n m *kernel"]:
        tensors = {name: tensor for name in self.coded if (tensor := kept(self, name)) is not None}
        weight, scale = self.layer.compose(tensors), kept(self, "scale")
        return weight if scale is None else weight * scale.view(-1, *[1] * (weight.dim() - 1))


class SampledWeight(nn.Module):
    """The weight of a summary layer, sampled in the graph.

    Args:
        layer: A hardened layer.
        scale: Factors of a norm for the filters, `(N,)`, or `None`.
        rounding: Of summary and mixing matrix.
    """

    sign_seed: Tensor | None

    def __init__(self, layer: Any, scale: Tensor | None, rounding: Rounding) -> None:
        super().__init__()
        self.geometry, self.folds = layer.geometry, layer.folds
        self.selection = StoredSelection(layer.offsets.selection())
        signs = layer.offsets.signs
        self.matrix = None if signs is None else StoredSigns(signs)
        keep(self, "summary", layer.summary, rounding, layer.quantizer("summary"))
        keep(self, "mix", layer.densify, rounding, layer.quantizer("densify"))
        keep(self, "scale", scale)
        seed = layer.sign_seed
        self.register_buffer("sign_seed", None if seed is None else seed.detach().cpu().clone())
        self.offsets = layer.offsets.stored_form()
        self.columns = None if layer.columns is None else Packed(layer.columns.table().cpu())
        self.axes = getattr(layer.offsets, "axes", None)

    def steps(self) -> Float[Tensor, "*n"] | None:
        """If the weight is whole multiples of a step, or of one for each filter, these steps: `()` or `(N,)`."""
        return None if self.mixes else _steps(self, "summary")

    def bank(self) -> Float[Tensor, "l q"]:
        """The summary."""
        summary = kept(self, "summary")
        assert summary is not None
        return summary

    def factors(self) -> Float[Tensor, "n #g"] | None:
        """Signs, and the norm's scale if no mixing of filters follows."""
        folds = self.folds
        signs = None if folds is None else folds.signs(torch.float32)
        if folds is not None and self.matrix is not None:
            signs = self.matrix().index_select(0, folds.block())
        signs = None if signs is None else self.selection().outputs(signs, 0)
        if self.sign_seed is not None:
            own = random_signs(self.sign_seed, self.geometry.sampled, self.geometry.windows, torch.float32)
            signs = own if signs is None else own * signs
        scale = kept(self, "scale")
        if scale is None or self.mixes:
            return signs
        return scale[:, None] if signs is None else signs * scale[:, None]

    @property
    def mixes(self) -> bool:
        """Whether filters are mixed after sampling."""
        return stores(self, "mix")

    def mixing(self) -> Float[Tensor, "m n"] | None:
        """The mixing matrix, scaled."""
        mix, scale = kept(self, "mix") if self.mixes else None, kept(self, "scale")
        return mix if mix is None or scale is None else mix * scale[:, None]

    def segments(self, task: Task) -> Int[Tensor, "n windows"]:
        """The first segment of each window in a task's bank."""
        assert isinstance(task.source, Slice | Widened)
        low = task.source.start if isinstance(task.source, Slice) else task.source.starts[0]
        offsets = self.offsets()[:, : task.rows.shape[1]]
        return ((offsets - low) // task.schedule.step).expand(task.rows.shape)

    def filters(self) -> Float[Tensor, "n q *kernel"]:
        """One window per filter, scaled, for layers whose channel groups are added up with signs."""
        g, scale = replace(self.geometry, windows=1, channels=self.geometry.columns), kept(self, "scale")
        if apart(g):
            windows = self.bank().view(g.sampled, 1, g.taps, g.columns).transpose(2, 3)
        else:
            windows = self._windows(g, self.offsets()[:, :1], self.bank())
        filters = g.to_weight(windows)
        return filters if scale is None else filters * scale.view(-1, *[1] * (filters.dim() - 1))

    def _windows(
        self, g: Geometry, offsets: Int[Tensor, "n g"], summary: Float[Tensor, "l q"]
    ) -> Float[Tensor, "n g q w"]:
        within = torch.arange(g.window) if self.axes is None else self.axes.pattern()
        rows = (offsets.reshape(-1, 1) + within).reshape(-1)
        return summary.index_select(0, rows).view(g.sampled, g.windows, g.window, g.columns).transpose(2, 3)

    def forward(self, folded: bool = False) -> Float[Tensor, "n m *kernel"]:
        """The weight; with `folded`, only the first window per filter, for layers whose filters repeat one window."""
        g, offsets, summary = self.geometry, self.offsets(), self.bank()
        if folded:
            channels = g.columns if g.layout == "taps" else g.window // g.taps
            g, offsets = replace(g, windows=1, channels=channels), offsets[:, :1]
        offsets = offsets.expand(g.sampled, g.windows)
        if self.columns is not None:
            wide = summary.index_select(1, self.columns().reshape(-1)).view(-1, g.windows, g.columns)
            summary = wide.transpose(0, 1).reshape(-1, g.columns)
            offsets = offsets + torch.arange(g.windows) * g.length
        windows = self._windows(g, offsets, summary)
        factors, mixing = self.factors(), self.mixing()
        if factors is not None:
            windows = windows * factors[:, :, None, None]
        weight = self.selection().weight(g.to_weight(windows))
        return weight if mixing is None else (mixing @ weight.flatten(1)).view(-1, *weight.shape[1:])


class StoredSelection(nn.Module):
    """What a layer with folds selects, in an exported graph.

    Slots take more bits than the blocks that they follow from, but fewer than the operators that would compute them.
    """

    def __init__(self, selection: Selection) -> None:
        super().__init__()
        slots, channels = selection.slots, selection.channels
        self.slots = None if slots is None else Packed(slots.cpu())
        self.channels = None if channels is None else Packed(channels.cpu())

    def forward(self) -> Selection:
        slots = None if self.slots is None else self.slots()
        return Selection(slots, None if self.channels is None else self.channels())


class StoredSigns(nn.Module):
    """Learned signs of blocks in an exported graph."""

    def __init__(self, signs: LearnedSigns) -> None:
        super().__init__()
        self.folds = signs.folds
        self.positive = Packed(signs.present()[..., 0].long().cpu()) if signs.signs else None
        keep(self, "share", signs.share)

    def forward(self) -> Float[Tensor, "b g"]:
        f, share = self.folds, kept(self, "share")
        matrix = f.matrix(torch.float32) if self.positive is None else self.positive().float() * 2 - 1
        if share is None:
            return matrix
        return matrix + share[:, None] * hadamard(torch.arange(1, f.blocks + 1), f.windows, torch.float32)


def _steps(owner: nn.Module, *names: str) -> Float[Tensor, "*n"] | None:
    """The step of the only stored tensor, times the sizes of the norm's factors."""
    step = signed_step(owner, names[0]) if len(names) == 1 else None
    scale = kept(owner, "scale")
    return step if step is None or scale is None else scale.abs() * step
