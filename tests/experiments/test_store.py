"""Records, failures and claims on disk."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from autosample.errors import ConfigError
from autosample.experiments.ablate import inline_runner, run_grid
from autosample.experiments.record import read_record, write_record
from autosample.experiments.store import Failure, Queue, Store

HOLD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from autosample.experiments.store import Store
store = Store(Path(sys.argv[1]))
print(store.claim(SimpleNamespace(name=sys.argv[2], id="0")), flush=True)
time.sleep(600)
"""


def test_a_record_is_what_was_written(tmp_path, grid, record):
    store, cell = Store(tmp_path), grid().cells[1]
    assert store.record(cell) is None
    store.keep(cell, record(cell, 0.75, moved={"a": [[0, 1.0]]}))
    assert store.record(cell) == record(cell, 0.75, moved={"a": [[0, 1.0]]})
    assert [path.name for path in (tmp_path / "records").iterdir()] == [f"{cell.name}.json"]


def test_a_failure_is_gone_once_the_cell_succeeds(tmp_path, grid, record):
    store, cell = Store(tmp_path), grid().cells[1]
    store.keep(cell, Failure("DataError", "no data", ["line"]))
    assert store.failure(cell) == Failure("DataError", "no data", ["line"], cell.identity)
    assert store.record(cell) is None
    store.keep(cell, record(cell))
    assert store.failure(cell) is None


def test_damaged_and_foreign_records_are_named(tmp_path, grid, record):
    store, (first, second, *_) = Store(tmp_path), grid().cells
    write_record(store.record_path(first), record(second))
    with pytest.raises(ConfigError, match=r"holds the record of another run: delete it"):
        store.record(first)
    path = store.record_path(second)
    for text in ("", "{", "[]", "{}", '{"accuracy": 1}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"is not a record .*delete it"):
            store.record(second)
    write_record(path, record(second, 3.0))
    with pytest.raises(ConfigError, match=r"is not a record .*delete it"):
        read_record(path)


def test_a_queue_gives_what_is_missing_in_order(tmp_path, grid, record):
    store, cells = Store(tmp_path), grid().cells
    store.keep(cells[1], record(cells[1]))
    store.keep(cells[2], Failure("ValueError", "once", []))
    queue = Queue(store, cells)
    taken = [queue.take() for _ in range(4)]
    assert taken == [cells[0], cells[2], cells[3], None]
    assert not queue.done
    queue.settle(cells[0], record(cells[0]))
    queue.settle(cells[2], Failure("ValueError", "twice", []))
    queue.settle(cells[3], record(cells[3]))
    assert queue.done
    assert set(queue.records) == {cells[i].id for i in (0, 1, 3)}
    queue.close()
    assert not (tmp_path / "claims").exists()


def test_two_queues_share_a_folder(tmp_path, grid, record):
    cells = grid().cells
    one, other = Queue(Store(tmp_path), cells), Queue(Store(tmp_path), cells)
    mine, theirs = one.take(), other.take()
    assert (mine, theirs) == cells[:2]
    one.settle(cells[0], record(cells[0], 0.1))
    other.settle(cells[1], Failure("ValueError", "x", []))
    # what the other has done meanwhile is not done again, success or not
    assert [one.take(), one.take(), one.take()] == [cells[2], cells[3], None]
    assert one.failures[cells[1].id].message == "x"
    assert other.take() is None
    assert not other.done
    for cell in cells[2:]:
        one.settle(cell, record(cell))
    assert other.take() is None
    assert other.done
    assert other.records[cells[0].id].accuracy == 0.1


def test_the_claim_of_a_killed_process_is_free_again(tmp_path, grid):
    cell = grid().cells[0]
    command = [sys.executable, "-c", HOLD, str(tmp_path), cell.name]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not Store(tmp_path).claim(cell)
        assert str(holder.pid) in (tmp_path / "claims" / cell.name).read_text()
    finally:
        holder.kill()
        holder.communicate()
    mine = Store(tmp_path)
    assert mine.claim(cell)
    mine.close([cell])


@pytest.mark.slow
def test_the_claim_of_a_process_killed_behind_its_record_is_swept(tmp_path, grid, record):
    done, held = grid().cells[:2]
    for cell in (done, held):
        holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path, cell.name], stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        if cell is done:
            holder.kill()
            holder.communicate()
    try:
        store = Store(tmp_path)
        store.keep(done, record(done))
        Queue(store, [done]).close()
        assert [path.name for path in (tmp_path / "claims").iterdir()] == [held.name]
    finally:
        holder.kill()
        holder.communicate()


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_finished_run_is_kept_if_the_disk_is_full(tmp_path, grid, record, monkeypatch):
    store, cell = Store(tmp_path / "out"), grid().cells[0]
    whole, calls = write_record, []

    def once(path, outcome):
        calls.append(path)
        return no_space() if len(calls) == 1 else whole(path, outcome)

    monkeypatch.setattr("autosample.experiments.store.write_record", once)
    with pytest.raises(ConfigError, match=r"cannot be written .*No space left.*: move /.* there") as caught:
        store.keep(cell, record(cell, 0.75))
    saved = Path(str(caught.value).rpartition(": move ")[2].removesuffix(" there"))
    assert saved.name == store.record_path(cell).name
    assert read_record(saved) == record(cell, 0.75)
    (tmp_path / "out" / "records").mkdir(parents=True)
    shutil.move(saved, store.record_path(cell))
    saved.parent.rmdir()
    assert store.record(cell) == record(cell, 0.75)


def test_the_record_of_a_newer_version_is_not_called_damaged(tmp_path, grid, record):
    store, cell = Store(tmp_path), grid().cells[0]
    store.keep(cell, record(cell))
    path = store.record_path(cell)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"carbon": 1.0}))
    with pytest.raises(ConfigError, match=r'has the field "carbon", so a newer version wrote it: upgrade autosample'):
        store.record(cell)
    path.write_text(json.dumps({"carbon": 1.0}))
    with pytest.raises(ConfigError, match="is not a record"):
        store.record(cell)


def test_a_failure_of_tomorrow_is_tried_again(tmp_path, grid):
    store, cells = Store(tmp_path), grid().cells[:1]
    store.keep(cells[0], Failure("ValueError", "once", []))
    tomorrow = time.time() + 86400
    os.utime(store.failure_path(cells[0]), (tomorrow, tomorrow))
    one, other = Queue(store, cells), Queue(Store(tmp_path), cells)
    assert one.take() == cells[0]
    one.settle(cells[0], Failure("ValueError", "twice", []))
    # and a failure from while another queue runs is not, whatever its clock says
    os.utime(store.failure_path(cells[0]), (1, 1))
    assert other.take() is None
    assert other.failures[cells[0].id].message == "twice"


def test_a_folder_deleted_meanwhile_is_written_again(tmp_path, grid, record):
    cells, out = grid(), tmp_path / "out"

    def runner(queue, tell):
        for number in range(len(cells.cells)):
            cell = queue.take()
            if number == 2:
                shutil.rmtree(out)
            queue.settle(cell, record(cell, 0.1 * number))

    console = Console(file=io.StringIO())
    done = run_grid(cells, out, runner, console)
    assert [done[cell.id].accuracy for cell in cells.cells] == [0.1 * n for n in range(4)]
    assert [Store(out).record(cell) for cell in cells.cells] == [done[cell.id] for cell in cells.cells]
    assert "2 records were deleted" in console.file.getvalue()


def test_a_folder_that_cannot_be_written_stops_the_grid_in_one_line(tmp_path, grid, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", no_space)
    with pytest.raises(ConfigError, match=r"the grid stopped .*No space left.*make space"):
        run_grid(grid(), tmp_path / "out", inline_runner(), Console(file=io.StringIO()))
