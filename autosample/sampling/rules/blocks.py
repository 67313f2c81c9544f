"""Signs by block: each block of filters sees the channel groups added up with signs of its own. Nothing is stored."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from autosample.errors import SpecError
from autosample.sampling.checks import check_whole
from autosample.sampling.folds import Folds, order
from autosample.sampling.geometry import Geometry
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.windows import Placement

# Neighbouring filters of a signal may overlap: at most so often, and only if each shift is at least so many taps.
_MOST_OVERLAP = 4
_LEAST_SHIFT = 4
# A layer may store up to this share less than its ratio allows, if its channel groups are then cut evenly.
_SPARE = 0.05


@dataclass(frozen=True, kw_only=True)
class BlockOptions(RuleOptions):
    """Settings of all rules with signs by block.

    Attributes:
        blocks: Blocks of filters, each with signs of its own; the order of the Hadamard matrix if left out. One block
            is WSNet's channel sampling.
        overlap: How many windows cover each row of the summary, `R`: filters start `K/R` taps apart. Left out, long
            kernels of signals overlap, up to 4 times, and others do not.
    """

    blocks: int | None = None
    overlap: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("blocks", "overlap"):
            check_whole(name, getattr(self, name), least=1, fix="leave it out to derive it from the ratio")


def apart(geometry: Geometry) -> bool:
    """Whether every filter has rows of its own, one filter after the other."""
    return geometry.length == geometry.sampled * geometry.taps and geometry.grid == geometry.taps


class BlockOffsets(Offsets):
    """`o[n, g] = (n mod P)·S` with signs `H[b(n), g]`; `P` is the number of windows in the summary, usually `N`."""

    Options: ClassVar[type[RuleOptions]] = BlockOptions
    options: BlockOptions

    def placement(self) -> Placement:
        return Placement(_offsets(self.lattice, self.anchor.device))

    def folds(self) -> Folds | None:
        p = self.lattice
        blocks = min(self.options.blocks or order(p.windows), p.filters // p.groups)
        return Folds(p.filters, p.channels, p.windows, blocks, p.groups) if min(blocks, p.windows) > 1 else None

    def stored_form(self) -> nn.Module:
        return Shared(self.lattice)

    @classmethod
    def unfit(cls, options: BlockOptions, filters: int) -> str:
        if (options.blocks or 1) <= filters:
            return ""
        got = options.blocks
        return f"blocks must be at most {filters}, the filters of the layer or of its group, got {got}: use fewer"

    @classmethod
    def sizes(cls, spec: Any, bare: Geometry) -> Geometry:
        """The geometry for a spec: channel groups first, then overlap, then windows that filters share.

        Raises:
            SpecError: The layout is `flat`, or there are more windows than channels, or more windows that overlap than
                taps.
        """
        if spec.layout == "flat":
            raise SpecError("folded windows lie along the taps, got layout='flat': leave layout out")
        options, n, m, k = spec.settings, bare.filters, bare.channels, bare.taps
        if (options.overlap or 1) > k:
            raise SpecError(f"overlap must be at most {k}, the layer's taps, got {options.overlap}: use less")
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
