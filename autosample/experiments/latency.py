"""Time of a forward pass of the deployed net."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from autosample.budget.latency import time_deployed
from autosample.deployment.deploy import deploy
from autosample.experiments.grid import Cell, Grid
from autosample.experiments.record import Record
from autosample.experiments.resolve import resolve
from autosample.system.timing import Timing, time_in_turn

# Rounds in which nets are timed in turn.
_ROUNDS = 101


def measure_latency(net: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Time of a forward pass of the deployed net at batch 1, on the net's device with the current threads.

    Args:
        net: Net in evaluation mode.
        shape: Shape of one example, without the batch.

    Returns:
        `median`, `low` and `high` quartile [ms], and the number of `threads`.
    """
    x = torch.zeros(1, *shape, device=next(net.parameters()).device)
    return {**milliseconds(time_deployed(net, x)), "threads": torch.get_num_threads()}


def with_latencies(grid: Grid, records: Mapping[str, Record], shape: tuple[int, ...]) -> dict[str, Record]:
    """The records with times at batch 1, measured now: the deployed nets of all methods and sizes take turns.

    Times do not depend on weights, so nets that are not trained stand for the trained ones of all seeds.

    Args:
        grid: The grid.
        records: A record for each of its cells, by id.
        shape: Shape of one example, without the batch.
    """
    firsts: dict[tuple[str, ...], Cell] = {}
    for cell in grid.cells:
        firsts.setdefault(cell.group, cell)
    x = torch.zeros(1, *shape)
    nets = [deploy(resolve(cell, shape).net().eval(), x) for cell in firsts.values()]
    with torch.inference_mode():
        timings = time_in_turn([partial(net, x) for net in nets], rounds=_ROUNDS)
    threads = {"threads": torch.get_num_threads()}
    found = {group: {**milliseconds(t), **threads} for group, t in zip(firsts, timings, strict=True)}
    return {cell.id: replace(records[cell.id], latency=found[cell.group]) for cell in grid.cells}


def milliseconds(timing: Timing) -> dict[str, float]:
    """Median and quartiles [ms]."""
    spread = {"median": timing.median, "low": timing.low, "high": timing.high}
    return {name: round(1e3 * value, 4) for name, value in spread.items()}
