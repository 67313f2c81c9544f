"""Cells side by side on one machine: worker processes with a fixed number of threads each."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from autosample.experiments.attempt import attempt, pack_cell, unpack_outcome
from autosample.experiments.grid import Cell
from autosample.experiments.store import Failure, Queue

# time between two looks for cells that another runner has [s]
_PATIENCE = 1.0

Tell = Callable[[str, Cell], None]


def run_here(jobs: Queue, tell: Tell, wandb: dict[str, str] | None = None) -> None:
    """Run all cells of a queue in this process, one after the other.

    Args:
        jobs: Queue to run.
        tell: Called at the start of each cell, after each epoch, and at the end: `start`, `epoch` or `end`, and the
            cell.
        wandb: As for `attempt`.
    """
    while not jobs.done:
        if (cell := jobs.take()) is None:
            time.sleep(0 if jobs.done else _PATIENCE)
            continue
        tell("start", cell)
        jobs.settle(cell, attempt(cell, lambda cell=cell: tell("epoch", cell), wandb))
        tell("end", cell)


def run_workers(jobs: Queue, tell: Tell, count: int, threads: int, wandb: dict[str, str] | None = None) -> None:
    """Run all cells of a queue in `count` processes of `threads` threads each.

    If a worker dies (out of memory, a crash in native code), its cell fails and a new worker replaces it.
    """
    workers = [_Worker(threads) for _ in range(min(count, len(jobs.waiting)))]
    try:
        while not jobs.done:
            for worker in workers:
                if worker.cell is None and (cell := jobs.take()) is not None:
                    worker.start(cell, wandb)
                    tell("start", cell)
            busy = {worker.output: worker for worker in workers if worker.cell is not None}
            if not busy:
                time.sleep(0 if jobs.done else _PATIENCE)
                continue
            for ready in select.select(list(busy), [], [], _PATIENCE)[0]:
                _hear(busy[ready], jobs, tell)
    finally:
        for worker in workers:
            worker.stop()


def _hear(worker: "_Worker", jobs: Queue, tell: Tell) -> None:
    cell = worker.cell
    assert cell is not None
    for message in worker.hear():
        if "tick" in message:
            tell("epoch", cell)
            continue
        jobs.settle(cell, worker.autopsy() if "died" in message else unpack_outcome(message))
        worker.cell = None
        tell("end", cell)


class _Worker:
    """One process of `autosample.experiments.worker`, started when it is first needed."""

    def __init__(self, threads: int) -> None:
        self.threads, self.cell = threads, None
        self.process: subprocess.Popen[bytes] | None = None
        self.rest = b""

    def start(self, cell: Cell, wandb: dict[str, str] | None) -> None:
        if self.process is None:
            self._spawn()
        assert self.process is not None
        assert self.process.stdin is not None
        self.cell: Cell | None = cell
        order = json.dumps({"cell": pack_cell(cell), "wandb": wandb})
        try:
            self.process.stdin.write(f"{order}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the worker has died: its output ends, and `autopsy` makes the failure

    def _spawn(self) -> None:
        one = str(self.threads)
        env = os.environ | {"OMP_NUM_THREADS": one, "MKL_NUM_THREADS": one, "OPENBLAS_NUM_THREADS": one}
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        # in its own session: Ctrl-C goes only to the runner, which then stops its workers
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autosample.experiments.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=env,
            start_new_session=True,
        )

    @property
    def output(self) -> Any:
        assert self.process is not None
        return self.process.stdout

    def hear(self) -> list[dict[str, Any]]:
        """The complete messages so far; `{"died": true}` if the process has ended."""
        got = os.read(self.output.fileno(), 1 << 20)
        *lines, self.rest = (self.rest + got).split(b"\n")
        return [json.loads(line) for line in lines] + ([] if got else [{"died": True}])

    def autopsy(self) -> Failure:
        """The failure of a process that ended in the middle of a cell, with the end of its output."""
        assert self.process is not None
        code = self.process.wait()
        self.log.seek(0)
        said = self.log.read().splitlines()[-20:]
        self.stop()
        return Failure(
            "WorkerDied", f"the worker ended with code {code} (a negative code is the signal that ended it)", said
        )

    def stop(self) -> None:
        """Kill the process."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # pyright: ignore[reportOptionalMemberAccess]
        self.process, self.rest = None, b""
