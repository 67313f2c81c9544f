"""The program of the fused kernel: a layer as a list of integers, which `csrc/program.h` reads.

The header comes first, one integer a field, then the taps of each phase, the passes, and the terms of the selection.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from autosample.reuse.schedule import Frame, Pass, Schedule, Vector, radices

# A sum of so many terms and more is made by running along the rows.
_MANY = 5


class Header(NamedTuple):
    """What a program begins with, in this order; the same names are in `csrc/program.h`.

    Attributes:
        stride_h … reach_w: Of the convolution, along height and width; `pad` and `after` are zeros before and after,
            `reach` is how far a filter's last tap lies from its first. A signal is an image of height 1.
        groups, windows, columns, channels, fold, relu, pool: As in `Flow`.
        rows: Segments that are computed.
        phases: Places modulo the stride at which segments are computed.
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
    """How a layer's input and output are cut up, for `encode`.

    Attributes:
        groups, windows, columns, channels: Convolution groups, `G`, `Q`, and `M`.
        fold: Whether windows of a filter share their offset, so that channel groups are added up first.
        choices: Windows that are needed: they begin with the segments `0 … choices − 1`.
        spread: How many filters read a window, on average: where few do, the selection may do the last sum itself.
        relu, pool: What follows the layer: a ReLU, a max-pool of this size and stride (1-D only).
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
    rows = flow.choices + schedule.span - 1
    code = [*Header(
        *_two(frame.stride, 1), *_two(before), *_two(after), *_two(reach),
        groups=flow.groups, windows=flow.windows, columns=flow.columns, channels=flow.channels, fold=int(flow.fold),
        rows=rows, relu=int(flow.relu), pool=flow.pool, phases=len(needed[0]),
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
