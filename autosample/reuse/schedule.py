"""How the window sums of a layer are built up from segments of its summary: the arithmetic of reuse, as plain integers.

A summary whose windows begin on a grid of `step` rows is cut into segments of `step` rows. One convolution with the
segments as filters gives `B[j]`, and a window is a sum of `R = K/step` shifted segments:

    D[j](v) = Σ_{r<R} B[j + r](v + r·shift)

The sum is made in passes of a few terms each (`R = 12` as 4, then 3), so that its cost grows with the logarithm of
`R`, and along one axis after the other. No difference of prefix sums is ever formed, so long signals lose nothing.
A spatial vector `v` counts input samples (pixels) from the padded corner.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """Where a convolution's filters are applied; all tuples have one entry per spatial axis.

    Attributes:
        kernel, stride, dilation: As of the convolution.
        padding: Zeros before and after each axis.
    """

    kernel: Vector
    stride: Vector
    dilation: Vector
    padding: tuple[tuple[int, int], ...]

    def out(self, size: Sequence[int]) -> Vector:
        """The size of the output for an input of `size`; where the filter does not fit, 0 or less."""
        reach = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        padded = (n + before + after for n, (before, after) in zip(size, self.padding, strict=True))
        return tuple((n - r) // s + 1 for n, r, s in zip(padded, reach, self.stride, strict=True))


@dataclass(frozen=True)
class Pass:
    """`D[j](v) ← Σ_{r<count} D[j + r·rows](v + r·shift)`: `rows` in segments, `shift` in input samples."""

    count: int
    rows: int
    shift: Vector

    def split(self, counts: Sequence[int]) -> "tuple[Pass, ...]":
        """The same sum in several passes, whose counts multiply to this one's."""
        passes, factor = [], 1
        for count in counts:
            passes.append(Pass(count, self.rows * factor, tuple(s * factor for s in self.shift)))
            factor *= count
        return tuple(passes)


@dataclass(frozen=True)
class Schedule:
    """Segments and passes of a kernel.

    Attributes:
        kernel, dilation: Of the convolution.
        step: Rows of a segment.
        segment: The kernel size of a segment, one entry per axis.
        axes: The sums that make windows out of segments: one pass for each axis with several segments, innermost first.
    """

    kernel: Vector
    dilation: Vector
    step: int
    segment: Vector
    axes: tuple[Pass, ...]

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The same sums in passes of few terms."""
        return tuple(small for p in self.axes for small in p.split(radices(p.count)))

    @property
    def span(self) -> int:
        """Segments of a window, `R`."""
        return 1 + sum((p.count - 1) * p.rows for p in self.axes)

    @property
    def reach(self) -> Vector:
        """The furthest that a pass looks from the window's corner, per axis [input samples]."""
        return tuple(sum((p.count - 1) * p.shift[a] for p in self.axes) for a in range(len(self.segment)))

    def rate(self, stride: Vector) -> Vector:
        """The coarsest stride at which segments can be computed so that every pass finds its terms."""
        return tuple(math.gcd(s, *(p.shift[a] for p in self.axes)) for a, s in enumerate(stride))


def fitting_step(step: int, kernel: Vector) -> int:
    """The largest divisor of `step` whose segments have one shape everywhere in a kernel in raster order.

    A segment is part of a kernel row that it divides, or some whole rows that divide the kernel, and so on outwards.
    """
    fits = [s for s in range(1, min(step, math.prod(kernel)) + 1) if step % s == 0 and _segment(s, kernel)]
    return max(fits)


def _segment(step: int, kernel: Vector) -> Vector | None:
    """The kernel size of a segment of `step` taps, or `None` where it would not be a box."""
    sizes, left = [], step
    for taps in reversed(kernel):
        inside = taps if left % taps == 0 else left if taps % left == 0 else 0
        if not inside:
            return None
        sizes.append(inside)
        left //= inside
    return tuple(reversed(sizes)) if left == 1 else None


def make_schedule(step: int, kernel: Vector, dilation: Vector) -> Schedule:
    """Segments of `step` rows and the passes, innermost axis first. `step` must be a fitting one."""
    segment = _segment(step, kernel)
    assert segment is not None, (step, kernel)
    passes = []
    for axis in reversed(range(len(kernel))):
        if (count := kernel[axis] // segment[axis]) > 1:
            shift = tuple(segment[a] * dilation[a] if a == axis else 0 for a in range(len(kernel)))
            passes.append(Pass(count, segment[axis] * math.prod(kernel[axis + 1 :]) // step, shift))
    return Schedule(kernel, dilation, step, segment, tuple(passes))


def radices(count: int) -> tuple[int, ...]:
    """Factors of `count`, fours before twos before odd primes: as few passes over memory as terms allow."""
    found = []
    for factor in (4, 2, 3, 5, 7):
        while count % factor == 0:
            found.append(factor)
            count //= factor
    return (*found, *([count] if count > 1 else []))
