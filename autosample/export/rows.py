"""Window sums of short signals, with time along rows: every step then reads and writes memory in order."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.coding.written import kept
from autosample.export.layers import Conv
from autosample.nn.lineage import Lineage
from autosample.nn.written import SampledWeight
from autosample.reuse.task import Task


class RowSums(Conv):
    """Segments of one tap meet each sample by a matrix product; windows are diagonal sums of its result.

    The product has shape `(T, P)`. In memory the term `(t + r·s, p + r·m)` of a sum lies `r·(s·P + m)` numbers after
    `(t, p)`, so each pass adds a flat array to itself, shifted.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, weight: SampledWeight, origin: Lineage, task: Task) -> None:
        super().__init__(layer, origin.after.shift, origin)
        self.sampled, self.task, self.in_order = weight, task, task.in_order

    def convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        task, schedule = self.task, self.task.schedule
        x = x.squeeze(2)
        if task.splits > 1:  # channel groups are added up
            surplus = task.splits * task.columns - task.channels
            x = F.pad(x, (0, 0, 0, surplus)) if surplus else x
            x = x.reshape(x.shape[0], task.splits, -1).sum(1).reshape(x.shape[0], task.columns, -1)
        bank = task.source(self.sampled.bank())
        ((before, after),), width = self.frame.padding, len(bank)
        y = F.pad(x.transpose(1, 2) @ bank.t(), (0, 0, before, after)).reshape(x.shape[0], 1, 1, -1)
        for step in schedule.axes:
            ones, apart = torch.ones(1, 1, 1, step.count), step.rows + step.shift[0] * width
            y = F.conv2d(y, ones, dilation=(1, apart))
        y = F.pad(y, (0, schedule.span - 1)).reshape(x.shape[0], -1, width)
        y = y[:, :: self.frame.stride[0], : task.choices]
        y = y if self.in_order else y.index_select(2, self.sampled.segments(task)[:, 0])
        factors, bias = self.sampled.factors(), kept(self, "bias")
        y = y if factors is None else y * factors[:, 0]
        y = y if bias is None else y + bias
        return y.transpose(1, 2).unsqueeze(2)
