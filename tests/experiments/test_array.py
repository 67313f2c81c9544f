"""Grids in parts: each cell runs once, whatever the tasks do at the same time, and the last task makes the tables."""

import errno
import fcntl
import os
import subprocess
import sys
from collections import Counter

import pytest

from autosample.cli import ablate as verb
from autosample.cli.main import main
from autosample.errors import ConfigError
from autosample.experiments import array
from autosample.experiments.record import records_in
from autosample.experiments.store import Store

GRID = """
name: parts
data: {class: Digits}
model: {name: digitnet, num_classes: 10, in_chans: 1}
train: {epochs: 1}
presets: [dense, random]
net_ratios: [8]
seeds: 4
compare: random
"""

# a module of the user's that takes the place of training, in workers too, and writes down what runs
FAST = """
import os
import time
import autosample.experiments.run as run
from autosample.experiments.record import Record

def run_cell(cell, *args):
    with open(os.environ["RUNS"], "a") as file:
        file.write(cell.name + "\\n")
    time.sleep(0.3)
    usual = {"settings": {}, "stored_bytes": 1000, "dense_bytes": 8000, "macs": 7, "seconds": 2.0, "torch": "0"}
    return Record(accuracy=0.5 + cell.seed / 10, dense_params=2000, cell=cell.identity, **usual)

run.run_cell = run_cell
"""


def slurm(own, first, last, step, count):
    told = {"ID": own, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in told.items()}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("1/4", {}, (0, 4)),
        ("4/4", {}, (3, 4)),
        ("2/3", slurm(9, 0, 9, 1, 10), (1, 3)),  # what is written counts
        ("", slurm(0, 0, 7, 1, 8), (0, 8)),
        ("", slurm(8, 1, 8, 1, 8), (7, 8)),
        ("", slurm(9, 1, 13, 4, 4), (2, 4)),  # --array=1-15:4
    ],
)
def test_the_place_of_a_task(text, environment, expected):
    assert array.task(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("0/4", {}, r"counted from 1, got 0/4: write --array 1/8"),
        ("5/4", {}, r"got 5/4"),
        ("two", {}, r"got two"),
        ("", {}, r"needs the variables of a Slurm array, got none: .* or write --array I/N"),
        ("", slurm(7, 3, 7, 1, 2), r"needs a range of tasks, got 2 from 3 to 7: use sbatch --array=1-2"),
    ],
)
def test_no_such_task(text, environment, message):
    with pytest.raises(ConfigError, match=message):
        array.task(text, environment)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_parts_have_each_cell_once(grid, count):
    whole = grid(seeds=2)
    cells = [cell for place in range(count) for cell in array.part(whole, place, count).cells]
    assert Counter(cell.id for cell in cells) == Counter(cell.id for cell in whole.cells)
    sizes = [len(array.part(whole, place, count).cells) for place in range(count)]
    assert max(sizes) - min(sizes) <= 1


def test_latencies_are_refused(grid):
    with pytest.raises(ConfigError, match=r"tasks would measure other ratios .*: run the grid without --array"):
        array.part(grid(ratios=None, latencies=[1.0]), 0, 2)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "parts.yaml"
    path.write_text(GRID)
    return path


def test_the_last_task_makes_the_tables(config, tmp_path, record, monkeypatch, capsys):
    ran = []

    def runner(queue, tell):
        while (cell := queue.take()) is not None:
            ran.append(cell.name)
            queue.settle(cell, record(cell))

    monkeypatch.setattr(verb, "_runner", lambda *args: runner)
    out = tmp_path / "out"
    words = ["ablate", str(config), "--out", str(out), "--array"]
    assert main([*words, "2/3"]) == 0
    assert "5 of 8 runs are left to other tasks" in capsys.readouterr().out
    assert not (out / "table.md").exists()
    for name, value in slurm(1, 1, 3, 1, 3).items():
        monkeypatch.setenv(name, value)
    assert main(words) == 0
    assert "2 of 8 runs are left" in capsys.readouterr().out
    assert main([*words, "3/3"]) == 0
    assert "8 of 8 runs; table.md" in capsys.readouterr().out
    assert (out / "table.md").exists()
    assert len(ran) == len(set(ran)) == 8


def test_a_file_system_without_locks_lets_a_task_run(tmp_path, grid, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    store, cell = Store(tmp_path), grid().cells[0]
    assert store.claim(cell)
    store.release(cell)


@pytest.mark.slow
def test_tasks_at_the_same_time_run_each_cell_once(config, tmp_path):
    """Two of them have the same place, as when one was started again too early."""
    (tmp_path / "fast.py").write_text(FAST)
    out, runs = tmp_path / "out", tmp_path / "runs"
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    usual = {"PYTHONPATH": path, "AUTOSAMPLE_IMPORT": "fast", "RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    usual |= {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    command = [sys.executable, "-m", "autosample", "ablate", str(config), "--out", str(out), "--array"]
    tasks = [
        subprocess.Popen(
            command, env={**os.environ, **usual, **slurm(own, 1, 3, 1, 3)}, stdout=subprocess.PIPE, text=True
        )
        for own in (1, 2, 2, 3)
    ]
    printed = [task.communicate(timeout=300)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0] * 4
    ran = Counter(runs.read_text().split())
    assert len(ran) == 8
    assert set(ran.values()) == {1}
    assert len(list(records_in(out / "records"))) == 8
    assert any("8 of 8 runs; table.md" in text for text in printed)
    assert "| 8x | `random` |" in (out / "table.md").read_text()
    assert not [p for p in out.rglob("*") if ".partial" in p.name or p.parent.name == "claims"]
