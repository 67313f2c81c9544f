"""The folder of an ablation: records, failures, and claims. With claims, several runners can share one folder."""

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from autosample.errors import ConfigError, one_line
from autosample.experiments.grid import Cell
from autosample.experiments.identity import id_of
from autosample.experiments.record import Record, read_record, records_in, write_record
from autosample.system.files import sweep_partials, write_json

try:
    import fcntl
except ImportError:  # Windows has no fcntl: only one runner may use a folder at a time
    fcntl = None


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error.

    Attributes:
        type, message: Type and message of the error.
        traceback: Last lines of its traceback.
        cell: Canonical configuration of the cell.
    """

    type: str
    message: str
    traceback: list[str]
    cell: dict[str, Any] = field(default_factory=dict)


class Store:
    """The files of each cell in a folder: `records/NAME.json`, `failed/NAME.json`, `claims/NAME`.

    A claim is an exclusive lock. The system releases it when its process ends. On file systems without locks, nothing
    keeps two runners from running the same cell.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claims: dict[str, IO[str]] = {}
        for part in ("records", "failed", "."):
            sweep_partials(folder / part)

    def record_path(self, cell: Cell) -> Path:
        return self.folder / "records" / f"{cell.name}.json"

    def failure_path(self, cell: Cell) -> Path:
        return self.folder / "failed" / f"{cell.name}.json"

    def record(self, cell: Cell) -> Record | None:
        """The record of a cell, or `None` if it has not finished.

        Raises:
            ConfigError: A file is damaged, or its record belongs to another cell.
        """
        path = self.record_path(cell)
        record = read_record(path)
        if record is not None and record.cell != cell.identity:
            raise ConfigError(f"{path} holds the record of another run: delete it")
        return record or self._older.get(cell.id)

    @cached_property
    def _older(self) -> dict[str, Record]:
        """Older records, by the ids of their cells: their file names have another id."""
        found = {}
        for path, record in records_in(self.folder / "records"):
            if not path.stem.endswith(number := id_of(record.cell)):
                found[number] = record
        return found

    def failure(self, cell: Cell) -> Failure | None:
        """The failure of the last run of a cell, or `None`."""
        try:
            return Failure(**json.loads(self.failure_path(cell).read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # a failure is only shown, so a damaged one does not matter
            return Failure("unknown", "unreadable", [])

    def failed_at(self, cell: Cell) -> tuple[int, int] | None:
        """What changes when a run of the cell fails again; `None` if none has failed. Clocks need not be right."""
        try:
            stat = self.failure_path(cell).stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def keep(self, cell: Cell, outcome: Record | Failure) -> None:
        """Write the outcome of a cell atomically.

        Raises:
            ConfigError: The folder cannot be written. A record is then in another file, which the message names.
        """
        try:
            self._write(cell, outcome)
        except OSError as error:
            told = one_line(error)[:60]
            if not isinstance(outcome, Record):
                raise ConfigError(f"{self.folder} cannot be written ({told}): make space there") from error
            path = Path(tempfile.mkdtemp(prefix="autosample-")) / self.record_path(cell).name
            write_record(path, outcome)
            raise ConfigError(
                f"{self.record_path(cell).parent} cannot be written ({told}): move {path} there"
            ) from error

    def _write(self, cell: Cell, outcome: Record | Failure) -> None:
        if isinstance(outcome, Record):
            write_record(self.record_path(cell), outcome)
            self.failure_path(cell).unlink(missing_ok=True)
        else:
            write_json(self.failure_path(cell), {**vars(outcome), "cell": cell.identity})

    def claim(self, cell: Cell) -> bool:
        """Claim a cell for this runner; `False` if another running process has it."""
        if fcntl is None:
            return True
        file = self._lock(cell.name)
        if file is None:
            return False
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
        self.claims[cell.id] = file
        return True

    def _lock(self, name: str) -> IO[str] | None:
        """The locked file of a claim; `None` if another running process has it."""
        assert fcntl is not None
        path = self.folder / "claims" / name
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = path.open("a+")
            except FileNotFoundError:  # another runner has just removed the folder
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.close()
                return None
            except OSError:  # some network file systems have no locks
                return file
            try:
                same = os.fstat(file.fileno()).st_ino == path.stat().st_ino
            except FileNotFoundError:
                same = False
            if same:
                return file
            file.close()  # its owner removed it between opening and locking

    def release(self, cell: Cell) -> None:
        """Release a claim."""
        file = self.claims.pop(cell.id, None)
        if file is not None:
            Path(file.name).unlink(missing_ok=True)
            file.close()

    def close(self, cells: Sequence[Cell]) -> None:
        """Release all claims. Remove the folder of claims if no other runner has one."""
        for cell in cells:
            self.release(cell)
        for path in (self.folder / "claims").glob("*") if fcntl is not None else ():
            # a runner was killed between writing its record and releasing the claim
            if (file := self._lock(path.name)) is not None:
                path.unlink(missing_ok=True)
                file.close()
        with contextlib.suppress(OSError):
            (self.folder / "claims").rmdir()


class Queue:
    """The cells that still have to run.

    Args:
        store: Folder of the records.
        cells: All cells of the grid.

    Raises:
        ConfigError: A record is damaged.
    """

    def __init__(self, store: Store, cells: Sequence[Cell]) -> None:
        self.store, self.failed = store, {cell.id: store.failed_at(cell) for cell in cells}
        self.records = {c.id: record for c in cells if (record := store.record(c)) is not None}
        self.waiting = [c for c in cells if c.id not in self.records]
        self.running: dict[str, Cell] = {}
        self.failures: dict[str, Failure] = {}
        self.total = len(self.waiting)

    @property
    def done(self) -> bool:
        """Whether all cells are finished: none is left to run or to wait for."""
        return not self.waiting and not self.running

    def take(self) -> Cell | None:
        """A cell to run now; `None` if none is left, or other runners have the rest."""
        for cell in list(self.waiting):
            if not self.store.claim(cell):
                continue
            self.waiting.remove(cell)
            # another runner may have finished it in the meantime
            if (record := self.store.record(cell)) is not None:
                self.records[cell.id] = record
            elif self.store.failed_at(cell) not in (None, self.failed[cell.id]) and (
                failure := self.store.failure(cell)
            ):
                self.failures[cell.id] = failure
            else:
                self.running[cell.id] = cell
                return cell
            self.store.release(cell)
        return None

    def settle(self, cell: Cell, outcome: Record | Failure) -> None:
        """Write the outcome of a taken cell, and release it."""
        self.store.keep(cell, outcome)
        del self.running[cell.id]
        if isinstance(outcome, Record):
            self.records[cell.id] = outcome
        else:
            self.failures[cell.id] = outcome
        self.store.release(cell)

    def close(self) -> None:
        """Release the cells that were taken but not settled."""
        self.store.close(list(self.running.values()))
