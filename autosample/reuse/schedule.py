"""How the window sums of a layer are built up from segments of its summary: the arithmetic of reuse, as plain integers.

A summary whose windows begin on a grid of `step` rows is cut into segments of `step` rows. One convolution with the
segments as filters gives `B[j]`, and a window is a sum of `R = K/step` shifted segments:

    D[j](v) = Σ_{r<R} B[j + r](v + r·shift)

The sum is made in passes of a few terms each (`R = 12` as 4, then 3), so that its cost grows with the logarithm of
`R`, and along one axis after the other. No difference of prefix sums is ever formed, so long signals lose nothing.
A spatial vector `v` counts input samples (pixels) from the padded corner.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

Vector = tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """Where a convolution's filters are put down; all tuples have one entry per spatial axis.

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


# A sum of so many terms and more is made by running along the rows.
_MANY = 5

# --- the program of the fused kernel ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """How a layer's input and output are cut up, for `encode`.

    Attributes:
        groups, windows, columns, channels: Convolution groups, `G`, `Q`, and `M`.
        fold: Whether windows of a filter share their position, so that channel groups are added up first.
        positions: Window positions `0 … positions − 1` that are asked for [segments].
        spread: How many filters read a window, on average: where few do, the selection may do the last sum itself.
        relu, pool: What follows the layer: a ReLU, a max-pool of this size and stride (1-D only).
    """

    groups: int
    windows: int
    columns: int
    channels: int
    fold: bool
    positions: int
    spread: float
    relu: bool = False
    pool: int = 1


def encode(schedule: Schedule, frame: Frame, flow: Flow) -> list[int]:
    """The program that `csrc/window_conv.cpp` runs, as a list of integers; good for inputs of any size.

    A spatial vector becomes a phase `v mod stride` and a shift `⌊v/stride⌋` along both axes; a signal is an image of
    height 1.
    """
    zero = (0,) * len(frame.kernel)
    passes, running = _realise(schedule, frame.stride)
    last = Pass(1, 0, zero)
    if passes and passes[-1] is not running and (passes[-1].count - 1) * (flow.spread - 1) < 2:
        last = passes.pop()  # where few filters read a window, the selection sums for itself
    # from the output back to the segments: which phases does each step have to provide?
    needed: list[list[Vector]] = [_phases([zero], last, frame.stride)]
    for step in reversed(passes):
        needed.insert(0, _phases(needed[0], step, frame.stride))
    before, after = zip(*frame.padding, strict=True)
    reach = tuple(d * (k - 1) for d, k in zip(frame.dilation, frame.kernel, strict=True))
    rows = flow.positions + schedule.span - 1
    code = [*_two(frame.stride, 1), *_two(before), *_two(after), *_two(reach), flow.groups, flow.windows, flow.columns]
    code += [flow.channels, int(flow.fold), rows, int(flow.relu), flow.pool, len(needed[0])]
    numbers = {phase: i for i, phase in enumerate(needed[0])}
    for phase in needed[0]:
        taps = [_plus(phase, v) for v in _segment_taps(schedule.segment, frame.dilation)]
        code += [len(taps), *(n for v in taps for n in (0, *_place(v, frame.stride)))]
    code.append(len(passes))
    for step, targets in zip(passes, needed[1:], strict=True):
        rows -= (step.count - 1) * step.rows
        code += [rows, *((step.count, step.rows, *_place(step.shift, frame.stride)[1:]) if step is running else (0,))]
        code.append(len(targets))
        for phase in targets:
            code += [numbers[phase], *([] if step is running else _terms(step, phase, numbers, frame.stride))]
    return [*code, *_terms(last, zero, numbers, frame.stride)]


def _place(v: Vector, stride: Vector) -> tuple[int, int, int]:
    """Phase, and shift down and along."""
    (h, w), (sh, sw) = _two(v), _two(stride, 1)
    return h % sh * sw + w % sw, h // sh, w // sw


def _realise(schedule: Schedule, stride: Vector) -> tuple[list[Pass], Pass | None]:
    """Passes as the kernel makes them, and which of them is a running sum.

    Its terms must all have the same phase, so a pass before it may have to bring phases together.
    """
    passes: list[Pass] = []
    running = None
    for axis in schedule.axes:
        apart = math.lcm(*(s // math.gcd(s, v) for s, v in zip(stride, axis.shift, strict=True)))
        if running is None and axis.count % apart == 0 and axis.count // apart >= _MANY:
            passes += axis.split([*radices(apart), axis.count // apart])
            running = passes[-1]
        else:
            passes += axis.split(radices(axis.count))
    return passes, running


def _terms(step: Pass, phase: Vector, numbers: dict[Vector, int], stride: Vector) -> list[int]:
    terms = [step.count]
    for r in range(step.count):
        v = _plus(phase, tuple(r * s for s in step.shift))
        home = tuple(a % b for a, b in zip(v, stride, strict=True))
        terms += [r * step.rows, numbers[home], *_place(v, stride)[1:]]
    return terms


def _phases(targets: Sequence[Vector], step: Pass, stride: Vector) -> list[Vector]:
    """Phases that `step` reads to make `targets`, which come first and keep their order."""
    found = dict.fromkeys(targets)
    for phase, r in product(targets, range(step.count)):
        found[tuple((p + r * s) % n for p, s, n in zip(phase, step.shift, stride, strict=True))] = None
    return list(found)


def _segment_taps(segment: Vector, dilation: Vector) -> Iterator[Vector]:
    for tap in product(*map(range, segment)):
        yield tuple(t * d for t, d in zip(tap, dilation, strict=True))


def _plus(a: Vector, b: Vector) -> Vector:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _two(v: Vector, missing: int = 0) -> tuple[int, int]:
    """A vector of one or two axes as (height, width)."""
    return (missing, v[0]) if len(v) == 1 else (v[0], v[1])
