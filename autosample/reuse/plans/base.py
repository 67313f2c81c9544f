"""The interface of a plan."""

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
    """The tensors of a layer, and what follows it.

    Attributes:
        summary: `Φ`, shape `(L, Q)`.
        factors: Factors of windows, per filter `(N, 1)` or per window `(N, G)`, or `None`.
        bias: `(N,)` or `None`.
        mix: WSNet's mixing matrix `(N', N)`, or `None`.
        pad: Sizes and mode of `torch.nn.functional.pad` before the layer, if the padding is not zeros.
        relu, pool: Whether a ReLU follows, and size and stride of the max-pool that follows (1-D only).
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
        """Number of filters after mixing (denser sampling), or 0 without mixing."""
        return 0 if self.mix is None else len(self.mix)


class PlanKind:
    """A way to compute a task: where it can be used, what it costs, and the module that does it.

    Costs are in multiply-adds of a dense convolution. They only need to separate promising plans from hopeless ones.

    Attributes:
        trains: Whether `reuse.ops.convolve` computes the variant that `usable` gives, so layers in training can use
            this plan too.
    """

    trains: ClassVar[bool] = False

    def usable(self, task: Task, device: torch.device, dtype: torch.dtype, fuse: bool) -> Task | None:
        """The variant of a task that this plan computes, or `None` if the plan cannot be used.

        Args:
            task: What the layer computes.
            device, dtype: Device and type of the layer's input.
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
