"""How a summary layer computes its output: from the materialised weight, or by reuse."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from autosample.errors import SpecError, hint
from autosample.nn.folding import folded_forward, trains_from_weight
from autosample.nn.planning import layer_frame, layer_task, reusable
from autosample.reuse import fused, ops
from autosample.reuse.layer import in_autocast
from autosample.reuse.planner import variants
from autosample.reuse.plans import PLANS, dense
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task

# In training, reuse is used if its predicted time is at most this share of the dense layer's.
_CLEARLY = 0.6
# From this many output positions on, the fused kernel trains faster than standard operators.
_WIDE = 64

Way = Literal["auto", "materialize", "reuse"]
_way: ContextVar[Way] = ContextVar("way", default="auto")


@contextmanager
def execution(way: Way) -> Iterator[None]:
    """A context manager: how summary layers that are not deployed compute their output.

    `materialize` samples the weight and convolves, `reuse` shares the work of overlapping windows if offsets are
    integers, and `auto` (default) takes what a cost model expects to be faster (on accelerators the weight). Compiled
    and exported models use the weight.

    Raises:
        SpecError: The way is unknown.
    """
    if way not in get_args(Way):
        near = hint(str(way), get_args(Way))
        raise SpecError(f"execution must be one of {', '.join(get_args(Way))}, got {way!r}: {near}")
    token = _way.set(way)
    try:
        yield
    finally:
        _way.reset(token)


class Reuse:
    """What a layer keeps between forward passes: its task, while its offsets stay the same."""

    def __init__(self) -> None:
        self._state: Any = None
        self._task: Task | None = None
        self._buffers: list[Tensor] = []

    def __deepcopy__(self, memo: dict) -> "Reuse":
        return Reuse()

    def __reduce__(self) -> tuple:
        return Reuse, ()

    def task(self, layer: Any) -> Task | None:
        """The layer's task if reuse should compute it at the present offsets."""
        parts = [part for part in (layer.offsets, layer.columns) if part is not None]
        buffers = [b for part in parts for b in part.buffers()]
        if any(b.is_inference() for b in buffers):
            return layer_task(layer)
        # buffers change with loading, freezing and moving; parameters of a rule matter only until it is frozen
        state = (
            *((b.data_ptr(), b._version) for b in buffers),
            *(getattr(m, "is_frozen", True) for part in parts for m in part.modules()),
        )
        if state != self._state:
            self._state, self._task = state, layer_task(layer)
            self._buffers = buffers  # kept alive, so no other tensor gets their addresses
        return self._task

    def forward(self, layer: Any, x: Any) -> Tensor | None:
        """The layer's output by folds or by reuse; `None` if its weight should be materialised."""
        if not isinstance(x, Tensor):
            return None
        if not layer.has_weight:
            out = folded_forward(layer, x)
            if out is None:
                raise RuntimeError(f"a layer of {layer.folds} cannot compute an input of shape {tuple(x.shape)}")
            return out
        if torch.compiler.is_compiling():
            # a plan needs known offsets, and a graph must not outlive them; deployed layers can be compiled
            return folded_forward(layer, x)
        wanted = _way.get()
        if wanted == "materialize":
            return None
        if wanted == "auto" and trains_from_weight(layer, x):
            return None
        if (out := folded_forward(layer, x)) is not None or reusable(layer):
            return out
        if x.dim() != len(layer.kernel_size) + 2 or (wanted == "auto" and torch._C._are_functorch_transforms_active()):
            return None
        task = self.task(layer)
        if task is None or task.channels * task.groups != x.shape[1]:
            return None
        frame, pad = layer_frame(layer)
        if pad is not None:
            x = nn.functional.pad(x, *pad)
        kernel = _kernel_trains(layer, x, frame)
        mixed = 0 if layer.densify is None else layer.densify.shape[0]
        if wanted == "auto" and (task := _worth(task, frame, x, kernel, mixed)) is None:
            return None
        return _run(layer, x, task, frame, kernel and fused.available())


def _kernel_trains(layer: Any, x: Tensor, frame: Frame) -> bool:
    """Whether the fused kernel can be used here, with gradients; this check does not build it."""
    plain = x.device.type == "cpu" and x.dtype == layer.summary.dtype == torch.float32
    plain = plain and not torch.is_autocast_enabled("cpu")
    wide = math.prod(frame.out(x.shape[2:])) >= _WIDE
    return plain and wide and not torch._C._are_functorch_transforms_active()


def _worth(task: Task, frame: Frame, x: Tensor, kernel: bool, mixed: int) -> Task | None:
    """The cheapest way to compute a task, if it is clearly cheaper than dense."""
    shape = tuple(x.shape)
    if min(frame.out(shape[2:])) < 1 or x.device.type != "cpu":
        return None  # an accelerator multiplies faster than it adds
    allowed = _CLEARLY * dense.cost(task, frame, shape, mixed)
    if kernel and PLANS["fused"].cost(task, frame, shape, mixed) < allowed and fused.available():
        return task
    ways = variants(task, x.device, x.dtype, fuse=False)
    costs = {kind: PLANS[kind].cost(way, frame, shape, mixed) for kind, way in ways.items() if PLANS[kind].trains}
    best = min(costs, key=lambda kind: costs[kind])
    return ways[best] if costs[best] < allowed else None


def _run(layer: Any, x: Tensor, task: Task, frame: Frame, kernel: bool) -> Tensor:
    summary, signs = layer.summary_in_use(), layer.signs()
    x = in_autocast(x)
    convolve = fused.convolve if kernel else ops.convolve
    y = convolve(x, task.source(summary), signs, task, frame)
    if layer.densify is not None:
        y = (layer.in_use("densify").to(y.dtype) @ y.flatten(2)).unflatten(2, y.shape[2:])
    return y if layer.bias is None else y + layer.bias.to(y.dtype).view(-1, *[1] * (y.dim() - 2))
