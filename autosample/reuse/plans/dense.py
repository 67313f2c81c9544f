"""The dense layer, whose weight is computed once: every other plan must beat it."""

import math
from collections.abc import Sequence

from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task

# Fitted once to measurements on AVX-512 processors, like those of the other plans [multiply-adds].
_CALL = 5e5
_MOVE = 12  # one number read, added and written


def macs(task: Task, frame: Frame, size: Sequence[int], mixed: int = 0) -> float:
    """Multiply-adds of the dense layer for one example."""
    return task.dense * (mixed or task.filters) / task.filters * math.prod(frame.out(size))


def cost(task: Task, frame: Frame, shape: Sequence[int], mixed: int = 0) -> float:
    """Predicted cost for an input of `shape`; `mixed` as in `Operands`."""
    batch, size = shape[0], shape[2:]
    moved = task.groups * task.channels * math.prod(size) + (mixed or task.filters) * math.prod(frame.out(size))
    return batch * (macs(task, frame, size, mixed) + _MOVE * moved) + _CALL
