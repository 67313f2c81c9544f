"""Measuring one workload: all sides take turns on the same threads. Each is first checked against dense torch."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autosample.errors import one_line
from autosample.experiments.bench.cases import Workload
from autosample.experiments.bench.memory import peak_memory
from autosample.experiments.bench.record import Measured, Row, fastest_dense
from autosample.experiments.bench.sides import Built, Side, build
from autosample.system.difference import largest_difference
from autosample.system.timing import ratio, time_in_turn

#: Largest allowed difference from the outputs of dense torch, relative to the largest of these.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
_BUDGET = 120.0  # seconds per row, after which no new round starts


def measure(
    work: Workload,
    *,
    threads: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    compiled: bool = True,
    rounds: int = 31,
    memory: bool = True,
) -> Row:
    """Build the sides of a workload, check them and time them.

    Args:
        work: Workload to measure.
        threads: Threads of torch during this call.
        device, dtype: Device and type to compute with; by default the CPU.
        compiled: Measure the sides of `torch.compile` too.
        rounds: Maximum number of rounds; there are fewer if they take more than two minutes.
        memory: Measure peak memory too, in another process for each side; never in a sweep.

    Raises:
        AutosampleError: The workload's model, shape or spec is not usable.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.compiler.reset()  # otherwise graphs of other rows count towards the limit of recompilations
    try:
        built = build(work, device=device or torch.device("cpu"), dtype=dtype, compiled=compiled)
        memory = memory and not work.sweep
        return measure_sides(work, built, threads=threads, tolerance=TOLERANCE[dtype], rounds=rounds, memory=memory)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def measure_sides(
    work: Workload, built: Built, *, threads: int, tolerance: float, rounds: int, memory: bool = False
) -> Row:
    """Measure the sides of a workload. All outputs must equal those of the first side."""
    row = Row(work, threads, plan=tuple(built.plan), error=built.error)
    notes, errors = list(built.notes), [built.error] if built.error else []
    calls, differences = _check(built.sides, tolerance, notes, errors)
    sides = [side for side in built.sides if side.name in calls]
    if not any(side.dense for side in sides):
        return replace(row, notes=tuple(notes), error="; ".join(errors))
    timings = time_in_turn(list(calls.values()), rounds=rounds, budget=_BUDGET, device=sides[0].args[0].device)
    taken = dict(zip(calls, timings, strict=True))
    measured = {}
    for side in sides:
        peak, why = peak_memory(side, threads) if memory else (None, "")
        notes += [why] if why and why not in notes else []
        t = taken[side.name]
        measured[side.name] = Measured(t.median, t.low, t.high, t.rounds, differences[side.name], peak)
    baseline = taken[fastest_dense({name: t.median for name, t in taken.items()})]
    others = [side.name for side in sides if not side.dense]
    ratios = {} if errors else {name: ratio(baseline, taken[name]) for name in others}
    return replace(row, sides=measured, ratios=ratios, notes=tuple(notes), error="; ".join(errors))


def _check(
    sides: list[Side], tolerance: float, notes: list[str], errors: list[str]
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """The calls of the sides that run and give correct outputs, and the differences of these from dense torch.

    Failures of autosample's own sides go to `errors`. Failures of torch's compiler and variants are allowed and go to
    `notes`.
    """
    calls: dict[str, Callable[[], Any]] = {}
    differences: dict[str, float] = {}
    expected: list[Tensor] = []
    for side in sides:
        optional = side.compiled or (side.dense and bool(expected))
        try:
            call = side.start()
            torch.manual_seed(1)
            with _exactly(side.args[0].device):
                got = _tensors(call())
        except Exception as error:  # an error in one side must not stop the others
            said = f"{side.name}: {type(error).__name__}: {one_line(error)[:200]}"
            (notes if optional else errors).append(said)
            continue
        expected = expected or got
        difference = largest_difference(expected, got).relative
        if not difference <= tolerance:
            said = f"{side.name}: outputs differ from those of dense torch by {difference:.2g}, more than {tolerance:g}"
            (notes if side.dense else errors).append(said)
            continue
        calls[side.name], differences[side.name] = call, difference
    return calls, differences


def _exactly(device: torch.device) -> contextlib.AbstractContextManager:
    """Turn off TensorFloat-32, whose rounding would hide differences. Timing uses torch's defaults."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _tensors(out: Any) -> list[Tensor]:
    # copies: a compiled function may reuse the memory of its outputs
    return [t.detach().clone() for t in tree_leaves(out) if isinstance(t, Tensor)]
