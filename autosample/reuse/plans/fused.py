"""The plan `fused`: what `reuse` computes, in one kernel."""

import torch

from autosample.reuse import fused
from autosample.reuse.plans.segments import Segments
from autosample.reuse.task import Task

# The kernel keeps a tile of every segment and block in memory: with more, that of a thread could exceed its limit.
_MOST_ROWS = 2**19


class Fused(Segments):
    """The C++ kernel works tile by tile, so intermediate results stay in the cache. CPUs only."""

    trains = False  # by `reuse.fused.convolve` only
    call, move = 5e5, 12
    kernel = True

    def usable(self, task: Task, device: torch.device, dtype: torch.dtype, fuse: bool) -> Task | None:
        runs = fused.takes(device, dtype) and task.blocks * task.segments <= _MOST_ROWS
        return task if fuse and runs and fused.available() else None

    def _sums(self, task: Task) -> int:
        return int(bool(task.schedule.axes))

    def _chosen(self, task: Task) -> int:
        return task.rows.numel()

    def _picked(self, task: Task) -> int:
        return 0
