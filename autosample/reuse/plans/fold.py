"""The plan `fold`: channel blocks that have the same filters are added first."""

import torch

from autosample.reuse.plans.segments import Segments
from autosample.reuse.task import Task


class Fold(Segments):
    """Only channels are folded. Every window is a separate filter, so nothing is shared along the taps."""

    call = 2e6

    def usable(self, task: Task, device: torch.device, dtype: torch.dtype, fuse: bool) -> Task | None:
        return task.unrolled() if task.fold and task.splits > 1 and task.schedule.axes else None
