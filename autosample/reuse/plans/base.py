"""What a kind of plan has to offer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task

Pad = tuple[list[int], str]


@dataclass(frozen=True, eq=False)
class Operands:
    """The numbers of a layer, and what follows it.

    Attributes:
        summary: `Φ`, shape `(L, Q)`.
        factors: What windows are multiplied by, per filter `(N, 1)` or per window `(N, G)`, or `None`.
        bias: `(N,)` or `None`.
        mix: WSNet's mixing matrix `(N', N)`, or `None`.
        pad: What `torch.nn.functional.pad` adds before, and in which mode, where it does not add zeros.
        relu, pool: What follows: a ReLU, a max-pool of this size and stride (1-D only).
    """

    summary: Tensor
    factors: Tensor | None = None
    bias: Tensor | None = None
    mix: Tensor | None = None
    pad: Pad | None = None
    relu: bool = False
    pool: int = 1

    @property
    def mixed(self) -> int:
        """How many filters are left where filters are mixed afterwards (denser sampling), else 0."""
        return 0 if self.mix is None else len(self.mix)


class PlanKind:
    """A way to compute a task: where it can be used, what it costs, and the module that does it.

    Costs are in multiply-adds of a dense convolution. They only have to tell the promising plans from the hopeless.

    Attributes:
        trains: Whether `reuse.ops.convolve` computes the variant that `usable` gives, so that layers in training can
            use this plan as well.
    """

    trains: ClassVar[bool] = False

    def usable(self, task: Task, device: torch.device, dtype: torch.dtype, fuse: bool) -> Task | None:
        """The variant of a task that this plan computes, or `None` where the plan cannot be used.

        Args:
            task: What the layer computes.
            device, dtype: Of the layer's input.
            fuse: Whether the fused kernel may be used.
        """
        raise NotImplementedError

    def cost(self, task: Task, frame: Frame, shape: Sequence[int], mixed: int = 0) -> float:
        """Predicted cost of a variant for an input of `shape`; `mixed` as in `Operands`."""
        raise NotImplementedError

    def macs(self, task: Task, frame: Frame, size: Sequence[int], mixed: int = 0) -> float:
        """Multiply-adds of a variant for one example of spatial `size`; sums and selection do not count."""
        at = (s // r for s, r in zip(frame.stride, task.schedule.rate(frame.stride), strict=True))
        places = math.prod(frame.out(size)) * math.prod(at)
        segments = places * task.groups * task.blocks * task.segments * task.schedule.step * task.columns
        return segments + mixed * task.filters * math.prod(frame.out(size))

    def build(self, task: Task, frame: Frame, operands: Operands) -> nn.Module:
        """The inference module of a variant."""
        raise NotImplementedError
