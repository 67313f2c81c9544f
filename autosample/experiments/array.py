"""A grid in parts: each task of an array, such as one of Slurm, runs cells of its own and waits for no other task."""

import re
from collections.abc import Mapping
from dataclasses import replace

from autosample.errors import ConfigError
from autosample.experiments.grid import Grid
from autosample.experiments.store import Store

_SLURM = "SLURM_ARRAY_TASK_"


def task(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """The place of a task, from 0, and the number of tasks.

    Args:
        text: `I/N`, task I of N, counted from 1; empty for the task of a Slurm array that the environment tells.
        environment: Variables of the environment.

    Raises:
        ConfigError: There is no such task, or the environment tells none.
    """
    if text:
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        place, count = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= place <= count:
            raise ConfigError(f"array must be I/N, task I of N, counted from 1, got {text}: write --array 1/8")
        return place - 1, count
    told = [environment.get(f"{_SLURM}{name}", "") for name in ("ID", "MIN", "MAX", "STEP", "COUNT")]
    if not all(number.isdigit() for number in told):
        raise ConfigError(
            "--array needs the variables of a Slurm array, got none: start it with sbatch --array, or write --array I/N"
        )
    own, first, last, step, count = (int(number) for number in told)
    if first + step * (count - 1) != last:
        raise ConfigError(
            f"--array needs a range of tasks, got {count} from {first} to {last}: use sbatch --array=1-{count}"
        )
    return (own - first) // step, count


def part(grid: Grid, place: int, count: int) -> Grid:
    """The cells of one task. All tasks together have each cell once.

    Raises:
        ConfigError: The sizes of the grid are latencies.
    """
    if any(cell.size is not None and cell.size.kind == "latency" for cell in grid.cells):
        raise ConfigError("tasks would measure other ratios for a latency, got latencies: run the grid without --array")
    return replace(grid, cells=grid.cells[place::count])


def missing(grid: Grid, store: Store) -> int:
    """How many cells of a grid have neither succeeded nor failed."""
    return sum(store.record(cell) is None and store.failed_at(cell) is None for cell in grid.cells)
