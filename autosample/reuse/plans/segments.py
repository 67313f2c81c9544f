"""The plan `reuse`: segments, window sums and selection in standard operators."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from autosample.reuse.layer import WindowConv
from autosample.reuse.plans.base import Operands, PlanKind
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task


class Segments(PlanKind):
    """Segments of the summary are convolved once; windows are sums of these, and filters choose windows.

    Attributes:
        call: The fixed cost.
        move: The cost of a number that is read, added and written.
        kernel: Whether the fused kernel computes the module.
    """

    trains = True
    # fitted once to measurements on AVX-512 processors [multiply-adds]
    call: ClassVar[float] = 4e6
    move: ClassVar[float] = 60
    kernel: ClassVar[bool] = False

    def usable(self, task: Task, device: torch.device, dtype: torch.dtype, fuse: bool) -> Task | None:
        return task

    def cost(self, task: Task, frame: Frame, shape: Sequence[int], mixed: int = 0) -> float:
        batch, size = shape[0], shape[2:]
        out = math.prod(frame.out(size))
        moved = task.groups * task.splits * task.columns * math.prod(size) if task.fold and task.splits > 1 else 0
        moved += task.groups * task.blocks * task.segments * out * self._sums(task) + self._chosen(task) * out
        picked = self._picked(task) * out
        return batch * (1.1 * self.macs(task, frame, size, mixed) + self.move * moved + picked) + self.call

    def _sums(self, task: Task) -> int:
        """How often all window sums are written to memory."""
        return len(task.schedule.passes)

    def _chosen(self, task: Task) -> int:
        """Windows that are copied to their filters, for each place in the output."""
        return 0 if task.in_order else task.rows.numel()

    def _picked(self, task: Task) -> int:
        """Multiply-adds of a selection by a product, for each place in the output."""
        return task.filters * task.blocks * task.choices if task.blocks > 1 else 0

    def build(self, task: Task, frame: Frame, operands: Operands) -> nn.Module:
        o = operands
        return WindowConv(
            task, frame, task.source(o.summary), factors=o.factors, bias=o.bias, mix=o.mix, pad=o.pad,
            relu=o.relu, pool=o.pool, kernel=self.kernel,
        )  # fmt: skip
