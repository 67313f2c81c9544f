"""Folded sampling: each block of filters sees the channel groups added up with signs of its own.

Nothing is stored, unless blocks or the order of channels are selected.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from autosample.coding.packing import bits_for, from_bits, pack_bits, unpack_bits
from autosample.errors import DAMAGED, ArtifactError, SpecError
from autosample.sampling.checks import check_whole
from autosample.sampling.folds import Folds, order
from autosample.sampling.geometry import Geometry
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.selection import IN_ORDER, Selection, slots_of
from autosample.sampling.windows import Placement

# What can be selected; each is an option.
_SELECTED = ("assignment", "permutation")

# Neighbouring filters of a signal may overlap: at most so often, and only if each shift is at least so many taps.
_MOST_OVERLAP = 4
_LEAST_SHIFT = 4
# A layer may store up to this share less than its ratio allows, if its channel groups are then cut evenly.
_SPARE = 0.05


@dataclass(frozen=True, kw_only=True)
class FoldedOptions(RuleOptions):
    """Settings of the rule.

    Attributes:
        blocks: Blocks of filters, each with signs of its own; the order of the Hadamard matrix if left out. One block
            is WSNet's channel sampling.
        overlap: How many windows cover each row of the summary, `R`: filters start `K/R` taps apart. Left out, long
            kernels of signals overlap, up to 4 times, and others do not.
        assignment: Which block a filter is in: `fixed` cuts the filters into blocks in order, `energy` lets a warm
            start choose what keeps the most of the weights. Costs the bits of a block's number for each filter.
        permutation: The order of the channels before they are folded: `fixed`, or chosen by a warm start, by `energy`.
            Costs the bits of a channel's number for each channel.
    """

    blocks: int | None = None
    overlap: int | None = None
    assignment: Literal["fixed", "energy"] = "fixed"
    permutation: Literal["fixed", "energy"] = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("blocks", "overlap"):
            check_whole(name, getattr(self, name), least=1, fix="leave it out to derive it from the ratio")


def apart(geometry: Geometry) -> bool:
    """Whether every filter has rows of its own, one filter after the other."""
    return geometry.length == geometry.sampled * geometry.taps and geometry.grid == geometry.taps


class FoldedOffsets(Offsets):
    """`o[n, g] = (n mod P)·S` with signs `H[b(n), g]`; `P` is the number of windows in the summary, usually `N`."""

    Options: ClassVar[type[RuleOptions]] = FoldedOptions

    def __init__(
        self,
        lattice: Lattice,
        options: FoldedOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, in_channels=in_channels, device=device)
        if (folds := self.folds()) is not None:
            for name in _SELECTED:
                if getattr(self.options, name, "fixed") != "fixed":
                    width = bits_for(folds.blocks if name == "assignment" else folds.channels)
                    self.keep(name, self.fresh(name).to(self.anchor.device), width)

    def fresh(self, name: str) -> Tensor:
        folds = self.folds()
        assert folds is not None
        return folds.block() if name == "assignment" else torch.arange(folds.channels)

    def selection(self) -> Selection:
        if not self.selects:
            return IN_ORDER
        folds, kept = self.folds(), {name: self.kept(name) for name in self.selects}
        assert folds is not None
        blocks = kept.get("assignment")
        return Selection(None if blocks is None else slots_of(blocks, folds), kept.get("permutation"))

    @property
    def selects(self) -> tuple[str, ...]:
        return tuple(name for name in _SELECTED if f"{name}_bits" in self._buffers)

    def select(self, chosen: Mapping[str, Int[Tensor, "*n"]]) -> None:
        for name in self.selects:
            self.keep(name, chosen[name], self.get_buffer(f"{name}_bits").shape[-1])

    def stored_bits(self) -> int:
        return sum(self.get_buffer(f"{name}_bits").numel() for name in self.selects)

    def packed(self) -> dict[str, Tensor]:
        return {name: pack_bits(self.get_buffer(f"{name}_bits")) for name in self.selects}

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        for name in self.selects:
            bits = self.get_buffer(f"{name}_bits")
            values = unpack_bits(stored[name], bits.shape[1], bits.shape[0])
            whole, folds = from_bits(values), self.folds()
            assert folds is not None
            per_group = whole.view(folds.groups, -1) if name == "assignment" else whole[None]
            expected = self.fresh(name).view(per_group.shape)
            if not torch.equal(per_group.sort(1).values, expected):
                raise ArtifactError(f"a stored {name} must be the usual one in another order: {DAMAGED}")
            self.keep_bits(name, values)
        return self

    def placement(self) -> Placement:
        return Placement(_offsets(self.lattice, self.anchor.device))

    def folds(self) -> Folds | None:
        p = self.lattice
        blocks = min(getattr(self.options, "blocks", None) or order(p.windows), p.filters // p.groups)
        return Folds(p.filters, p.channels, p.windows, blocks, p.groups) if min(blocks, p.windows) > 1 else None

    def stored_form(self) -> nn.Module:
        return Shared(self.lattice)

    @classmethod
    def sizes(cls, spec: Any, bare: Geometry) -> Geometry:
        """The geometry for a spec: channel groups first, then overlap, then windows that filters share.

        Raises:
            SpecError: The layout is `flat`, or there are more blocks than filters or more windows than channels.
        """
        if spec.layout == "flat":
            raise SpecError("folded windows lie along the taps, got layout='flat': leave layout out")
        options, n, m, k = spec.settings, bare.filters, bare.channels, bare.taps
        if (options.blocks or 1) > n:
            raise SpecError(f"blocks must be at most {n}, the layer's filters, got {options.blocks}: use fewer")
        if (spec.windows or 1) > m:
            raise SpecError(f"windows must be at most {m} for this layer, got {spec.windows}: pass a smaller number")
        ratio = float(spec.ratio or 1.0)
        step = max(-(-k // (options.overlap or _overlap(bare, ratio))), 1)
        windows = spec.windows or _windows(m * k / (step * ratio), m)
        columns = -(-m // windows)
        windows = -(-m // columns)
        least = -(-n // min(options.blocks or order(windows), n))  # fewer, and filters of one block would be equal
        room = n * m * k / ratio / columns
        if options.overlap is None and room < k + (least - 1) * step:
            step = max(int((room - k) / max(least - 1, 1)), 1)
        places = min(max(int((room - k) / step) + 1, least), n)
        return replace(bare, layout="taps", windows=windows, grid=step, length=k + (places - 1) * step)


def _offsets(p: Lattice, device: torch.device | None) -> torch.Tensor:
    starts = torch.arange(p.filters, device=device) % p.choices * p.grid
    return starts.view(-1, 1).expand(p.filters, p.windows)


def _overlap(bare: Geometry, ratio: float) -> int:
    """Only long kernels of signals overlap, and channels carry at least as much of the ratio."""
    most = min(_MOST_OVERLAP, bare.taps // _LEAST_SHIFT, int(math.sqrt(ratio)))
    return 1 << max(most.bit_length() - 1, 0) if len(bare.kernel) == 1 else 1


def _windows(wanted: float, channels: int) -> int:
    """The most channel groups with which all filters together store at least what is `wanted` of each."""
    count = min(max(int(channels * (1 + _SPARE) / wanted) + 1, 1), channels)
    least = 2 if wanted * (1 + _SPARE) < channels else 1  # with one group, filters cannot share windows
    while count > least and -(-channels // count) * (1 + _SPARE) < wanted:
        count -= 1
    return count


class Shared(nn.Module):
    """The offsets in an exported graph: nothing is stored."""

    def __init__(self, lattice: Lattice) -> None:
        super().__init__()
        self.lattice = lattice

    def forward(self) -> torch.Tensor:
        return _offsets(self.lattice, None)
