"""NES with an epitome of short axes (Zhou et al. 2020, section 3.2): windows are boxes that move along each axis.

`rule: indexed` moves windows along one long axis, the rows of the summary. Here the summary is `(C, 2k₁ − 1, 2k₂ − 1,
…)` for a kernel `(k₁, k₂, …)`, flattened, and a window of `β` channels is a box `(β, k₁, k₂, …)` in it.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.errors import DAMAGED, ArtifactError, SpecError
from autosample.sampling.geometry import Geometry
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.rules.indexed import IndexedOffsets, IndexedOptions
from autosample.sampling.rules.table import TableOffsets, start_offsets
from autosample.sampling.windows import Placement

# Windows of a filter that a layer has at least, if its channels allow it.
_WINDOWS = 8


@dataclass(frozen=True, kw_only=True)
class EpitomeOptions(IndexedOptions):
    """Settings of the rule: those of `indexed`. The offsets of a window cannot be shared by filters (`patch`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch > 1:
            raise SpecError(f"an epitome has no patches of filters, got patch {self.patch}: use the rule indexed")


@dataclass(frozen=True)
class Axes:
    """The axes of an epitome, the channels first, and of the boxes in it.

    Attributes:
        size, window: Lengths of the epitome and of a box along each axis.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]

    @classmethod
    def of(cls, lattice: Lattice) -> "Axes":
        """The axes of a layer.

        Raises:
            ArtifactError: The sizes, of a file, do not fit.
        """
        spatial, taps = _spatial(lattice.kernel), math.prod(lattice.kernel)
        length = lattice.limit + lattice.window
        if lattice.grid > 1 or length % math.prod(spatial) or lattice.window % taps:
            raise ArtifactError(f"{length} rows and windows of {lattice.window} must be those of boxes: {DAMAGED}")
        return cls((length // math.prod(spatial), *spatial), (lattice.window // taps, *lattice.kernel))

    @property
    def last(self) -> tuple[int, ...]:
        """The largest start of a box along each axis."""
        return tuple(size - window for size, window in zip(self.size, self.window, strict=True))

    @property
    def strides(self) -> tuple[int, ...]:
        """Rows between neighbours along each axis."""
        return tuple(math.prod(self.size[i + 1 :]) for i in range(len(self.size)))

    def rows(self, starts: Int[Tensor, "*n a"]) -> Int[Tensor, "*n"]:
        """The first row of boxes."""
        return sum((starts[..., i] * step for i, step in enumerate(self.strides)), torch.zeros_like(starts[..., 0]))

    def starts(self, rows: Int[Tensor, "*n"]) -> Int[Tensor, "*n a"]:
        """The inverse of `rows`."""
        return torch.stack([rows // step % size for step, size in zip(self.strides, self.size, strict=True)], -1)

    def numbered(self, numbers: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The first rows of boxes from their numbers, `0 … boxes − 1`."""
        counts = [last + 1 for last in self.last]
        each = [numbers // math.prod(counts[i + 1 :]) % count for i, count in enumerate(counts)]
        return self.rows(torch.stack(each, -1))

    @property
    def boxes(self) -> int:
        """How many starts there are."""
        return math.prod(last + 1 for last in self.last)

    def pattern(self, device: torch.device | None = None) -> Int[Tensor, " w"]:
        """The rows of a box after its first one, in the order of a filter's weights."""
        numbers, total = torch.arange(math.prod(self.window), device=device), 0
        for i, step in enumerate(self.strides):
            total = total + numbers // math.prod(self.window[i + 1 :]) % self.window[i] * step
        return torch.as_tensor(total, device=device)

    def around(self, steps: Float[Tensor, "n g a"]) -> Placement:
        """Boxes at real-valued starts: mixtures of those at the neighbouring integers along each axis."""
        most = torch.tensor(self.last, device=steps.device)
        low = steps.detach().floor().long().clamp(min=torch.zeros_like(most), max=(most - 1).clamp(min=0))
        upper = steps - low
        moving = [i for i, last in enumerate(self.last) if last]
        weights, corners = [], []
        for chosen in itertools.product((0, 1), repeat=len(moving)):
            weight, jump = torch.ones_like(upper[..., 0]), 0
            for i, up in zip(moving, chosen, strict=True):
                weight = weight * (upper[..., i] if up else 1 - upper[..., i])
                jump += up * self.strides[i]
            weights.append(weight)
            corners.append(jump)
        mixture, jumps = torch.stack(weights, -1), torch.tensor(corners, device=steps.device)
        return Placement(self.rows(low), mixture, pattern=self.pattern(steps.device), corners=jumps)


def _spatial(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of the axes of the kernel: a box has as many starts along them as taps."""
    return tuple(2 * k - 1 for k in kernel)


class EpitomeOffsets(IndexedOffsets):
    """As `IndexedOffsets`, with starts along each axis: `routing` and `centre` have the shape `(N, G, axes)`."""

    Options: ClassVar[type[RuleOptions]] = EpitomeOptions
    options: EpitomeOptions

    @property
    def movable(self) -> bool:
        return False

    @property
    def axes(self) -> Axes:
        """The axes of the epitome."""
        return Axes.of(self.lattice)

    def pattern(self) -> Int[Tensor, " w"]:
        return self.axes.pattern(self.anchor.device)

    def _patch_start(self) -> Int[Tensor, "n g"]:
        numbers = replace(self.lattice, limit=self.axes.boxes - 1)
        return self.axes.numbered(start_offsets(numbers, self.options.start, self.seeded_with, self.anchor.device))

    def _begun(self, start: Int[Tensor, "n g"]) -> tuple[Float[Tensor, "n g a"], Float[Tensor, "n g a"]]:
        steps = self.axes.starts(start).float()
        last = self._last(steps)
        share = (steps / last.clamp(min=1)).clamp(0.4 / last.clamp(min=1), 1 - 0.4 / last.clamp(min=1))
        return steps, torch.log(share) - torch.log1p(-share)

    def _last(self, like: Tensor) -> Float[Tensor, " a"]:
        return torch.tensor(self.axes.last, device=like.device, dtype=like.dtype)

    @property
    def _rows(self) -> float:
        return max(*self.axes.last, 1) / 4 if self.options.unit == "logit" else 1.0

    def _predicted(self, learner: nn.Sequential, places: Float[Tensor, "b p c"]) -> Float[Tensor, "n g a"]:
        moved = self._moved(learner, places).unflatten(-1, self.routing.shape)
        last = self._last(moved)
        shift = moved if self.options.unit == "logit" else moved * 4 / last.clamp(min=1)
        return torch.sigmoid(self.centre + shift).mean((0, 1)) * last

    def hard_offsets(self) -> Int[Tensor, "n g"]:
        last = torch.tensor(self.axes.last, device=self.routing.device)
        return self.axes.rows(self.routing.round().long().clamp(min=torch.zeros_like(last), max=last))

    def soft_offsets(self) -> Float[Tensor, "n g a"]:
        return self.routing

    def soft_placement(self) -> Placement:
        return self.axes.around(self._steps_now())

    def placement(self) -> Placement:
        return self.hard_placement() if self.is_frozen else self.soft_placement()

    def hardened(self) -> Offsets:
        return EpitomeTable(self.lattice, self())

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        table = EpitomeTable(self.lattice, self.lattice.unpack(stored))
        starts = self.axes.starts(table())
        if bool((starts > torch.tensor(self.axes.last)).any()):
            raise ArtifactError(f"stored offsets must be starts of boxes, got others: {DAMAGED}")
        return table

    @classmethod
    def sizes(cls, spec: Any, bare: Geometry) -> Geometry:
        """The geometry for a spec: whole channels in each window, so that boxes have at least twice as much room.

        Raises:
            SpecError: The windows do not divide the channels, or there is a grid.
        """
        m, spatial = bare.channels, math.prod(_spatial(bare.kernel))
        if spec.grid != 1:
            raise SpecError(f"an epitome has no grid, got grid {spec.grid!r}: leave it out")
        if spec.windows is not None and m % spec.windows:
            raise SpecError(f"windows must divide the {m} channels, got {spec.windows}: pass a divisor")
        room = max(round(bare.dense / float(spec.ratio or 1) / spatial), 1)
        divisors = [g for g in range(1, m + 1) if m % g == 0]
        large = [g for g in divisors if g >= min(_WINDOWS, m) and 2 * m // g <= room]
        windows = spec.windows or (large or [m])[0]
        return replace(bare, layout="flat", windows=windows, grid=1, length=max(room, m // windows) * spatial)


class EpitomeTable(TableOffsets):
    """What is left of learned boxes: their first rows."""

    @property
    def axes(self) -> Axes:
        """The axes of the epitome."""
        return Axes.of(self.lattice)

    def pattern(self) -> Int[Tensor, " w"]:
        return self.axes.pattern(self.anchor.device)

    def placement(self) -> Placement:
        return replace(super().placement(), pattern=self.pattern())
