"""Which way of computing a layer is the fastest: a cost model from shapes, which a measurement can override."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autosample.reuse import fused
from autosample.reuse.schedule import Frame, Vector
from autosample.reuse.task import Task
from autosample.system.files import write_json
from autosample.system.machine import processor
from autosample.system.timing import time_in_turn

#: A plan must beat the dense layer by this much to be taken.
MARGIN = 0.95
# Plans that are predicted to be this many times slower than dense are not measured.
_HOPELESS = 3.0
_ROUNDS, _BUDGET = 11, 0.6
# Costs in multiply-adds of a dense convolution, fitted once to measurements on AVX-512 processors; they only have to
# tell the promising from the hopeless.
_CALL = {"dense": 5e5, "fold": 2e6, "reuse": 4e6, "fused": 5e5}
_MOVE = {"dense": 12, "fold": 60, "reuse": 60, "fused": 12}  # one number read, added and written


@dataclass(frozen=True)
class Plan:
    """How a layer is computed.

    Attributes:
        kind: `dense` (the weight made once), `fold` (channel groups added first), `reuse` (segments, window sums,
            selection in standard operators) or `fused` (the same in one kernel).
        reason: Why this one.
        seconds, dense_seconds: Measured for the layer and what was folded into it, or `None` where not measured.
        saving: Multiply-adds of the dense layer divided by those of the plan.
    """

    kind: str
    reason: str
    seconds: float | None = None
    dense_seconds: float | None = None
    saving: float = 1.0


def variants(task: Task, fuse: bool) -> dict[str, Task]:
    """The ways to compute a task, by kind of plan."""
    found = {"reuse": task}
    if task.fold and task.splits > 1 and task.schedule.axes:
        found["fold"] = task.unrolled()
    if fuse:
        found["fused"] = task
    return found


def macs(task: Task, frame: Frame, size: Sequence[int], mixed: int = 0) -> float:
    """Multiply-adds of a task for one example; sums and selection are not counted.

    `mixed` is how many filters are left where filters are mixed afterwards (denser sampling), else 0.
    """
    at = (s // r for s, r in zip(frame.stride, task.schedule.rate(frame.stride), strict=True))
    places = math.prod(frame.out(size)) * math.prod(at)
    segments = places * task.groups * task.blocks * task.segments * task.schedule.step * task.columns
    return segments + mixed * task.filters * math.prod(frame.out(size))


def dense_macs(task: Task, frame: Frame, size: Sequence[int], mixed: int = 0) -> float:
    """Multiply-adds of the dense layer for one example."""
    return task.dense * (mixed or task.filters) / task.filters * math.prod(frame.out(size))


def cost(kind: str, task: Task, frame: Frame, shape: Sequence[int], mixed: int = 0) -> float:
    """Predicted cost for an input of `shape` [multiply-adds of a dense convolution]; `mixed` as for `macs`."""
    batch, size = shape[0], shape[2:]
    out = math.prod(frame.out(size))
    if kind == "dense":
        moved = task.groups * task.channels * math.prod(size) + (mixed or task.filters) * out
        return batch * (dense_macs(task, frame, size, mixed) + _MOVE[kind] * moved) + _CALL[kind]
    moved = task.groups * task.splits * task.columns * math.prod(size) if task.fold and task.splits > 1 else 0
    sums = len(task.schedule.passes) if kind != "fused" else bool(task.schedule.axes)
    moved += task.groups * task.blocks * task.segments * out * sums
    chosen = 0 if task.in_order and kind != "fused" else task.rows.numel()
    picked = task.filters * task.blocks * task.positions * out if kind != "fused" and task.blocks > 1 else 0
    return batch * (1.1 * macs(task, frame, size, mixed) + _MOVE[kind] * (moved + chosen * out) + picked) + _CALL[kind]


def choose(
    task: Task,
    frame: Frame,
    shape: Vector,
    dense: Callable[[], nn.Module],
    build: Callable[[str, Task], nn.Module],
    *,
    device: torch.device,
    dtype: torch.dtype,
    fuse: bool,
    measure: bool,
    mixed: int = 0,
    also: tuple = (),
) -> tuple[Plan, nn.Module | None]:
    """The fastest plan for an input of `shape`, and its module; `None` for the module where dense is to stay.

    Args:
        dense, build: Make the modules to compare, with all that would be folded into them.
        fuse: Whether the fused kernel may be used.
        measure: Time the promising plans on this device instead of trusting the model; kept for the next time.
        mixed: As for `macs`.
        also: What else `dense` and `build` depend on.
    """
    usable = fuse and device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and fused.available()
    ways = variants(task, usable)
    baseline = cost("dense", task, frame, shape, mixed)
    costs = {kind: cost(kind, way, frame, shape, mixed) / baseline for kind, way in ways.items()}
    worth = [kind for kind in costs if costs[kind] < _HOPELESS] if measure else []
    best = min(costs, key=lambda kind: costs[kind])
    plain = dense_macs(task, frame, shape[2:], mixed)
    saving = plain / max(macs(ways[best], frame, shape[2:], mixed), 1)
    if not measure:
        if costs[best] < MARGIN:
            return Plan(best, f"{1 / costs[best]:.1f}x predicted", saving=saving), build(best, ways[best])
        return Plan("dense", f"the best other plan, {best}, is predicted at {1 / costs[best]:.2f}x"), None
    if not worth:
        return Plan("dense", f"the best other plan, {best}, is predicted at {1 / costs[best]:.2f}x"), None
    key = _signature(task, frame, shape, device, dtype, worth, mixed, also)
    modules = {kind: build(kind, ways[kind]) for kind in worth}
    taken = remembered(key, ["dense", *worth], lambda: _measure({"dense": dense(), **modules}, shape, device, dtype))
    best = min(worth, key=lambda kind: taken[kind])
    ratio, times = taken["dense"] / taken[best], {"seconds": taken[best], "dense_seconds": taken["dense"]}
    if ratio < 1 / MARGIN:
        return Plan("dense", f"the best other plan, {best}, measured {ratio:.2f}x", **times), None
    saving = plain / max(macs(ways[best], frame, shape[2:], mixed), 1)
    return Plan(best, f"measured {ratio:.1f}x", saving=saving, **times), modules[best]


@torch.no_grad()
def _measure(
    modules: Mapping[str, nn.Module], shape: Vector, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Median seconds of each module on random input."""
    x = torch.randn(shape, device=device).to(dtype)
    sides = [lambda m=m: m(x) for m in modules.values()]
    timings = time_in_turn(sides, rounds=_ROUNDS, budget=_BUDGET, device=device)
    return {kind: t.median for kind, t in zip(modules, timings, strict=True)}


def _signature(
    task: Task, frame: Frame, shape: Vector, device: torch.device, dtype: torch.dtype, *others: object
) -> str:
    """What a measurement depends on, as a short key."""
    return signature(
        device, dtype, fused.version(), shape, frame, task.schedule,
        tuple(task.rows.shape), task.segments, task.columns, task.splits, task.fold, task.groups, task.in_order,
        task.table is None, others,
    )  # fmt: skip


def signature(device: torch.device, dtype: torch.dtype, *others: object) -> str:
    """A short key for a measurement that depends on the machine, on torch, and on others."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    parts = (name, torch.get_num_threads(), torch.__version__, str(dtype), *others)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


# --- measurements kept between processes -----------------------------------------------------------------------------


def cache_file() -> Path:
    """Where measurements are kept: in the folder `AUTOSAMPLE_CACHE`, or `~/.cache/autosample`."""
    folder = os.environ.get("AUTOSAMPLE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "autosample"
    return Path(folder).expanduser() / "plans.json"


def remembered(key: str, kinds: list[str], measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The measurement kept under `key`, or a new one, which is then kept. A file that cannot be used is ignored."""
    path = cache_file()
    known = _read(path)
    found = known.get(key)
    if isinstance(found, dict) and all(isinstance(found.get(k), float) and found[k] > 0 for k in kinds):
        return found
    taken = measure()
    with contextlib.suppress(OSError):  # a read-only home only costs the time of measuring again
        write_json(path, {**_read(path), key: taken})
    return taken


def _read(path: Path) -> dict:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
