"""Find the fastest way to compute a layer: costs are predicted from shapes, and a measurement can override them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autosample.reuse import fused
from autosample.reuse.plans import PLANS, Operands, dense
from autosample.reuse.schedule import Frame, Vector
from autosample.reuse.task import Task
from autosample.reuse.timings import remembered, signature
from autosample.system.timing import time_in_turn

#: A plan must be faster than the dense layer by this factor to be used.
MARGIN = 0.95
# Plans that are predicted to be this many times slower than dense are not measured.
_HOPELESS = 3.0
_ROUNDS, _BUDGET = 11, 0.6


@dataclass(frozen=True)
class Plan:
    """How a layer is computed.

    Attributes:
        kind: `dense` (the weight made once) or a key of `PLANS`: `fold` (channel blocks added first), `reuse`
            (segments, window sums, selection in standard operators), `fused` (the same in one kernel). Layers with
            folds: `folded` (signed sums, then a convolution with groups), `folded last` (the same with channels last),
            `folded product` (the same as a product of matrices), `folded fused` (both in one kernel).
        reason: Why this plan was chosen.
        seconds, dense_seconds: Measured time of the layer and what was folded into it, or `None` if not measured.
        saving: Multiply-adds of the dense layer divided by those of the plan.
    """

    kind: str
    reason: str
    seconds: float | None = None
    dense_seconds: float | None = None
    saving: float = 1.0


def variants(task: Task, device: torch.device, dtype: torch.dtype, *, fuse: bool) -> dict[str, Task]:
    """What each usable plan computes, by kind of plan; arguments as for `PlanKind.usable`."""
    found = {kind: plan.usable(task, device, dtype, fuse) for kind, plan in PLANS.items()}
    return {kind: variant for kind, variant in found.items() if variant is not None}


def choose(
    task: Task,
    frame: Frame,
    shape: Vector,
    operands: Operands,
    build_dense: Callable[[], nn.Module],
    *,
    device: torch.device,
    dtype: torch.dtype,
    fuse: bool,
    measure: bool,
) -> tuple[Plan, nn.Module | None]:
    """The fastest plan for an input of `shape`, and its module; `None` for the module if the layer stays dense.

    Args:
        task, frame, operands: Description of the layer.
        build_dense: Makes the dense module for comparison, with everything that a plan would fold in.
        device, dtype: Device and type of the input.
        fuse, measure: As for `autosample.deploy`; measurements are cached.
    """
    mixed, ways = operands.mixed, variants(task, device, dtype, fuse=fuse)
    baseline = dense.cost(task, frame, shape, mixed)
    costs = {kind: PLANS[kind].cost(way, frame, shape, mixed) / baseline for kind, way in ways.items()}
    best = min(costs, key=lambda kind: costs[kind])
    worth = [kind for kind in costs if costs[kind] < _HOPELESS] if measure else [best] * (costs[best] < MARGIN)
    if not worth:
        return Plan("dense", f"the best other plan, {best}, is predicted at {1 / costs[best]:.2f}x"), None
    modules = {kind: PLANS[kind].build(ways[kind], frame, operands) for kind in worth}
    macs = {kind: max(PLANS[kind].macs(ways[kind], frame, shape[2:], mixed), 1) for kind in worth}
    saving = {kind: dense.macs(task, frame, shape[2:], mixed) / count for kind, count in macs.items()}
    if not measure:
        return Plan(best, f"{1 / costs[best]:.1f}x predicted", saving=saving[best]), modules[best]
    key = _signature(task, frame, shape, operands, device, dtype, worth)
    return timed(key, modules, build_dense, torch.empty((), device=device, dtype=dtype).expand(shape), saving)


def timed(
    key: str,
    modules: Mapping[str, nn.Module],
    build_dense: Callable[[], nn.Module],
    x: Tensor,
    saving: Mapping[str, float],
) -> tuple[Plan, nn.Module | None]:
    """The fastest of several modules by measurement; `None` for the module if the dense one is as fast.

    Args:
        key: Under which the measurement is cached; see `timings.signature`.
        modules: What computes the layer, by kind of plan.
        build_dense: Makes the dense module.
        x: A tensor of the shape, type and device of the inputs.
        saving: As in `Plan`, by kind of plan.
    """
    taken = remembered(key, ["dense", *modules], lambda: _measure({"dense": build_dense(), **modules}, x))
    best = min(modules, key=lambda kind: taken[kind])
    ratio, times = taken["dense"] / taken[best], {"seconds": taken[best], "dense_seconds": taken["dense"]}
    if ratio < 1 / MARGIN:
        return Plan("dense", f"the best other plan, {best}, measured {ratio:.2f}x", **times), None
    return Plan(best, f"measured {ratio:.1f}x", saving=saving[best], **times), modules[best]


@torch.no_grad()
def _measure(modules: Mapping[str, nn.Module], like: Tensor) -> dict[str, float]:
    """Median seconds of each module on random input."""
    x = torch.randn(like.shape, device=like.device).to(like.dtype)
    sides = [lambda m=m: m(x) for m in modules.values()]
    timings = time_in_turn(sides, rounds=_ROUNDS, budget=_BUDGET, device=like.device)
    return {kind: t.median for kind, t in zip(modules, timings, strict=True)}


def _signature(
    task: Task, frame: Frame, shape: Vector, operands: Operands, device: torch.device, dtype: torch.dtype, worth: list
) -> str:
    """Everything that a measurement depends on, as a short key."""
    o = operands
    more = (o.pad, o.relu, o.pool, o.bias is None, None if o.factors is None else tuple(o.factors.shape), o.mixed)
    return signature(
        device, dtype, fused.version(), shape, frame, task.schedule,
        tuple(task.rows.shape), task.segments, task.columns, task.splits, task.fold, task.groups, task.in_order,
        task.table is None, worth, more,
    )  # fmt: skip
