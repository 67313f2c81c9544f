"""The program of the fused kernel: a layer as a list of integers, which `csrc/program.h` reads.

The header comes first, one integer per field, then the taps of each phase, the passes, and the terms of the selection.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from autosample.reuse.schedule import Frame, Pass, Schedule, Vector, radices

# Sums of at least this many terms are computed as running sums along the rows.
_MANY = 5


class Header(NamedTuple):
    """The start of a program, in this order; `csrc/program.h` uses the same names.

    Attributes:
        stride_h … reach_w: Sizes of the convolution, along height and width; `pad` and `after` are zeros before and
            after, `reach` is the distance from a filter's first tap to its last. A signal is an image of height 1.
        groups, windows, columns, channels, fold, folds, relu, pool: As in `Flow`.
        rows: Number of segments that are computed; with folds, for each block of filters.
        phases: Number of points modulo the stride at which segments are computed.
    """

    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    after_h: int
    after_w: int
    reach_h: int
    reach_w: int
    groups: int
    windows: int
    columns: int
    channels: int
    fold: int
    folds: int
    rows: int
    relu: int
    pool: int
    phases: int

    @classmethod
    def of(cls, program: Sequence[int]) -> "Header":
        """The header of a program."""
        return cls(*program[: len(cls._fields)])


@dataclass(frozen=True)
class Flow:
    """How a layer's input and output are divided, for `encode`.

    Attributes:
        groups, windows, columns, channels: Convolution groups, `G`, `Q`, and `M`.
        fold: Whether windows of a filter share their offset, so channel blocks are added first.
        choices: Number of different windows: they start with the segments `0 … choices − 1`.
        spread: Average number of filters that read a window; if it is low, the selection may compute the last sum
            itself.
        relu, pool: Whether a ReLU follows, and size and stride of the max-pool that follows (1-D only).
        folds: Blocks of filters. Each has segments of its own, as many as the others, a multiple of 8, and reads the
            channel blocks added up with a row of a Hadamard matrix as signs. 0 if all read the plain sum.
    """

    groups: int
    windows: int
    columns: int
    channels: int
    fold: bool
    choices: int
    spread: float
    relu: bool = False
    pool: int = 1
    folds: int = 0


def encode(schedule: Schedule, frame: Frame, flow: Flow) -> list[int]:
    """The program that `csrc/window_conv.cpp` runs, as a list of integers, valid for inputs of any size.

    A spatial vector becomes a phase `v mod stride` and a shift `⌊v/stride⌋` along both axes; a signal is an image of
    height 1.
    """
    zero = (0,) * len(frame.kernel)
    passes, running = _realise(schedule, frame.stride)
    last = Pass(1, 0, zero)
    if passes and passes[-1] is not running and (passes[-1].count - 1) * (flow.spread - 1) < 2:
        last = passes.pop()  # if few filters read a window, the selection computes this sum
    # from the output back to the segments: which phases must each step provide?
    needed: list[list[Vector]] = [_phases([zero], last, frame.stride)]
    for step in reversed(passes):
        needed.insert(0, _phases(needed[0], step, frame.stride))
    before, after = zip(*frame.padding, strict=True)
    reach = tuple(d * (k - 1) for d, k in zip(frame.dilation, frame.kernel, strict=True))
    rows = flow.choices + schedule.span - 1
    code = [*Header(
        *_two(frame.stride, 1), *_two(before), *_two(after), *_two(reach),
        groups=flow.groups, windows=flow.windows, columns=flow.columns, channels=flow.channels, fold=int(flow.fold),
        folds=flow.folds, rows=rows, relu=int(flow.relu), pool=flow.pool, phases=len(needed[0]),
    )]  # fmt: skip
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
    """Phase, and shift in height and width."""
    (h, w), (sh, sw) = _two(v), _two(stride, 1)
    return h % sh * sw + w % sw, h // sh, w // sw


def _realise(schedule: Schedule, stride: Vector) -> tuple[list[Pass], Pass | None]:
    """Passes as in the kernel, and which of them is a running sum.

    All its terms must have the same phase, so an earlier pass may have to join phases.
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
    """Phases that `step` reads to compute `targets`, which come first and keep their order."""
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
