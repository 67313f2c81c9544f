"""The verb `ablate`: run or resume a grid, and make its tables and pictures."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autosample.cli.options import Parser, number, parse, whole
from autosample.errors import ConfigError, one_line

if TYPE_CHECKING:
    from autosample.experiments.grid import Grid
    from autosample.experiments.store import Store

_ABOUT = """Run a grid of data x model x preset x size x seed or fold: a record per run, then tables and pictures.

Running it again resumes: it starts the runs that have no record yet, and retries those that failed.
Exit code: 0 if all runs succeeded, 1 if runs failed (their errors are in OUT/failed), 2 after a mistake."""


def declare(parser: Parser) -> None:
    """Declare the options of `ablate`."""
    parser.description = _ABOUT
    add = parser.add_argument
    add("config", help="grid: a YAML file, or the name of a bundled one, such as ablation/quick")
    add("--out", type=Path, help="folder of records, tables and pictures (runs/ablation/NAME)")
    add("--root", help="data folder; replaces the grid's")
    add("--jobs", type=whole, default=1, help="worker processes on this machine (1)")
    add(
        "--threads",
        type=whole,
        help="threads per worker (cores / jobs); the number can change the last digits of results",
    )
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="only runs whose label or name matches, such as random or '*seed0*'",
    )
    add(
        "--choose",
        nargs="?",
        const=0.2,
        type=number,
        metavar="SHARE",
        help="score on a held-out share of the training data (0.2); do not read the test set",
    )
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a Ray cluster; starts a local one if no address is given",
    )
    add(
        "--array",
        nargs="?",
        const="",
        metavar="I/N",
        help="run part I of N, or that of a task of a Slurm array; the last task makes the tables",
    )
    add("--collect", action="store_true", help="only make tables and pictures from existing records")
    add(
        "--wandb",
        nargs="?",
        const="",
        choices=("", "offline", "online"),
        metavar="offline|online",
        help="log every run to wandb (default: WANDB_MODE, else offline)",
    )


def main(args: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        AutosampleError: An option, the grid or its data are not usable.
        SystemExit: With code 1, if runs failed.
    """
    given = argparse.Namespace(**parse(args, declare))
    for name in ("jobs", "threads"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(given, name)}: leave it out for the default")
    from autosample.experiments import array
    from autosample.experiments.ablate import default_console, prepare_data, run_grid
    from autosample.experiments.parse import read_grid
    from autosample.experiments.store import Store

    changes = {} if given.choose is None else {"holdout": given.choose, "test": False}
    grid = read_grid(given.config, given.root, **changes)
    out = given.out or Path("runs/ablation") / (grid.name if given.choose is None else f"{grid.name}-choose")
    chosen = grid.only(given.only) if given.only else grid
    own = chosen if given.array is None else array.part(chosen, *array.task(given.array, os.environ))
    console = default_console()
    failed = 0
    if not given.collect:
        runner = _runner(given, grid.name, out)
        prepare_data(own, out)
        failed = len(own.cells) - len(run_grid(own, out, runner, console))
    store = Store(out)
    if given.array is not None and (left := array.missing(chosen, store)):
        print(f"{left} of {len(chosen.cells)} runs are left to other tasks; the last one makes the tables")
        sys.exit(1 if failed else 0)
    _collect(grid, store, out, given.collect)
    if failed:
        sys.exit(1)


def _collect(grid: "Grid", store: "Store", out: Path, asked: bool) -> None:
    """Write tables and pictures of the records that are there; `asked`: whether there must be one."""
    from autosample.experiments.collect import write_tables
    from autosample.experiments.figures import draw

    records = {cell.id: record for cell in grid.cells if (record := store.record(cell)) is not None}
    if records:
        try:
            print(write_tables(grid, records, out), end="")
            draw(grid, records, out)
        except OSError as error:
            raise ConfigError(
                f"tables cannot be written to {out} ({one_line(error)[:150]}): make space there"
            ) from error
        print(f"\n{len(records)} of {len(grid.cells)} runs; table.md, table.csv, tests.csv and *.png are in {out}")
    elif asked:
        raise ConfigError(f"--collect needs records, got none of {grid.name} in {out}: run the grid first")


def _runner(given: argparse.Namespace, group: str, out: Path):
    from autosample.experiments.ablate import worker_runner
    from autosample.system.machine import threads_for

    wandb = None
    if given.wandb is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{out} cannot be written ({one_line(error)[:150]}): give --out") from error
        mode = given.wandb or os.environ.get("WANDB_MODE", "offline")
        wandb = {"group": group, "folder": str(out.resolve()), "mode": mode}
    if given.ray is None:
        return worker_runner(given.jobs, given.threads, wandb)
    from autosample.experiments.ray_runner import ray_runner

    return ray_runner(given.ray or None, given.threads or threads_for(given.jobs), wandb)
