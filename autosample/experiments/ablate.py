"""Running a grid: finished runs are kept, failed and missing ones run."""

import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from autosample.errors import ConfigError, one_line
from autosample.experiments.grid import Cell, Grid
from autosample.experiments.latencies import settled
from autosample.experiments.pool import Tell, run_here, run_workers
from autosample.experiments.record import Record
from autosample.experiments.store import Queue, Store
from autosample.system.machine import threads_for

# Runs a whole queue, and reports progress through a function.
Runner = Callable[[Queue, Tell], None]


def default_console() -> Console:
    """A console as wide as the terminal, or with 110 columns if there is no terminal."""
    return Console(width=None if Console().is_terminal else 110)


def run_grid(grid: Grid, out: Path, runner: Runner, console: Console) -> dict[str, Record]:
    """Run the cells of a grid that have no record yet. Returns all records, by the ids of their cells.

    Args:
        grid: Grid to run.
        out: Folder of the records.
        runner: Function that runs a queue: made by `inline_runner`, `worker_runner` or `ray_runner`.
        console: Console for progress and errors.

    Raises:
        ConfigError: A record in `out` is damaged, or `out` cannot be written.
    """
    store = Store(out)
    grid = settled(grid, store)
    queue = Queue(store, grid.cells)
    done = set(queue.records)
    total, left = len(grid.cells), queue.total
    if not left:
        console.print(f"All {total} runs are done in {out}; delete the folder to train again.")
        return queue.records
    if left < total:
        console.print(f"{total - left} of {total} runs are done in {out}; running the rest.")
    with stopping_on_signals(), progress(console, list(queue.waiting)) as tell:
        try:
            runner(queue, tell)
        except OSError as error:
            raise ConfigError(
                f"the grid stopped ({one_line(error)[:150]}): make space in {out}, or give --out"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # the system frees claims at the end of the process
                queue.close()
    _restore(Store(out), grid, queue.records, console)
    _tell_notices([record for key, record in queue.records.items() if key not in done], console)
    for cell in grid.cells:
        if (failure := queue.failures.get(cell.id)) is not None:
            console.print(f"failed: {cell.name}: {failure.type}: {failure.message}", markup=False, soft_wrap=True)
    if queue.failures:
        console.print(
            f"{len(queue.failures)} of {total} runs failed, see {out}/failed; run the command again to retry them."
        )
    return queue.records


def _restore(store: Store, grid: Grid, records: dict[str, Record], console: Console) -> None:
    """Write records again that were deleted while the grid ran."""
    gone = [cell for cell in grid.cells if cell.id in records and store.record(cell) is None]
    for cell in gone:
        store.keep(cell, records[cell.id])
    if gone:
        console.print(f"{len(gone)} records were deleted from {store.folder} meanwhile, and are written again.")


def _tell_notices(records: list[Record], console: Console) -> None:
    """What the new runs warned of, each text once."""
    for text, count in Counter(text for record in records for text in record.notices).items():
        console.print(f"warning in {count} of {len(records)} runs: {text}", markup=False, soft_wrap=True)


def prepare_data(grid: Grid, out: Path) -> None:
    """Read each data set once. A wrong folder then gives one error, and files are decoded before workers need them.

    Raises:
        DataError: Data are missing or unusable.
    """
    from autosample.experiments.run import make_data

    store = Store(out)
    seen: set[str] = set()
    for cell in grid.cells:
        key = f"{cell.data} {sorted(cell.data_args.items())}"
        if key not in seen and store.record(cell) is None:
            seen.add(key)
            args = dict(cell.data_args)
            make_data(cell.data, args, seed=cell.seed, fold=cell.fold, holdout=cell.holdout).prepare_data()


@contextmanager
def progress(console: Console, cells: list[Cell]) -> Iterator[Tell]:
    """A progress bar over the epochs of all cells; without a terminal, one line per finished cell."""
    epochs = {cell.id: cell.train.get("epochs", 1) for cell in cells}
    seen = dict.fromkeys(epochs, 0)
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    count = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("epochs of all runs", total=sum(epochs.values()))

        def tell(event: str, cell: Cell) -> None:
            nonlocal count
            if event == "start":
                bar.update(task, description=f"{cell.label} {cell.size or ''}, seed {cell.seed}")
            steps = 1 if event == "epoch" else epochs[cell.id] - seen[cell.id] if event == "end" else 0
            seen[cell.id] += steps
            bar.advance(task, steps)
            if event == "end":
                count += 1
                if not console.is_terminal:
                    console.print(f"{count} of {len(cells)} done: {cell.name}", soft_wrap=True)

        yield tell


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: workers stop, claims are released, and no partial file stays."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def worker_runner(jobs: int, threads: int | None = None, wandb: dict[str, str] | None = None) -> Runner:
    """A runner with `jobs` processes. By default they share the cores; `threads` sets the threads of each."""
    each = threads or threads_for(jobs)
    return lambda queue, tell: run_workers(queue, tell, jobs, each, wandb)


def inline_runner(wandb: dict[str, str] | None = None) -> Runner:
    """A runner that runs a queue in this process."""
    return lambda queue, tell: run_here(queue, tell, wandb)
