"""The verb `ablate`: run or resume a grid, and make its tables and pictures."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from autosample.cli.options import Parser, number, parse, whole
from autosample.errors import ConfigError, one_line

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
    from autosample.experiments.ablate import default_console, prepare_data, run_grid
    from autosample.experiments.collect import write_tables
    from autosample.experiments.figures import draw
    from autosample.experiments.parse import read_grid
    from autosample.experiments.store import Store

    changes = {} if given.choose is None else {"holdout": given.choose, "test": False}
    grid = read_grid(given.config, given.root, **changes)
    out = given.out or Path("runs/ablation") / (grid.name if given.choose is None else f"{grid.name}-choose")
    chosen = grid.only(given.only) if given.only else grid
    console = default_console()
    failed = 0
    if not given.collect:
        runner = _runner(given, grid.name, out)
        prepare_data(chosen, out)
        done = run_grid(chosen, out, runner, console)
        failed = len(chosen.cells) - len(done)
    store = Store(out)
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
    elif given.collect:
        raise ConfigError(f"--collect needs records, got none of {grid.name} in {out}: run the grid first")
    if failed:
        sys.exit(1)


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
