"""A grid from its file to its tables, in worker processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from autosample.cli.main import main
from autosample.experiments.ablate import inline_runner, run_grid, worker_runner
from autosample.experiments.parse import read_grid
from autosample.experiments.record import records_in
from autosample.experiments.store import Failure

pytestmark = pytest.mark.slow  # every cell is a process of its own

TINY = """
data: {class: Digits, batch_size: 512}
model: {name: digitnet, num_classes: 10, in_chans: 1}
train: {epochs: 1, lr: 4.0e-3}
presets: [dense, random, {preset: autosample, options: {afford: 1}, label: ours}]
net_ratios: [12]
seeds: 2
holdout: 0.2
compare: ours
"""


@pytest.fixture
def console():
    from rich.console import Console

    return Console(quiet=True)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def accuracies(folder):
    return {path.name: (r.accuracy, r.val_accuracy, r.stored_bytes) for path, r in records_in(folder / "records")}


def left_over(folder):
    return [p.name for p in folder.rglob("*") if ".partial" in p.name or p.parent.name == "claims"]


def start(config, out, *options):
    """The verb as a process of its own."""
    command = [sys.executable, "-m", "autosample", "ablate", str(config), "--out", str(out), *options]
    env = os.environ | {"OMP_NUM_THREADS": "1"}

    def hear() -> None:  # a shell's background job ignores SIGINT, and so would its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command, env=env, preexec_fn=hear, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_equal_configurations_give_equal_records_in_and_out_of_process(tmp_path, config, console, capsys):
    """The verb in two workers, and the same grid again in this process."""
    out, again = tmp_path / "out", tmp_path / "again"
    assert main(["ablate", str(config), "--out", str(out), "--jobs", "2", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| 12x | `ours` |" in printed
    assert "6 of 6 runs" in printed
    files = {path.name for path in out.iterdir()}
    assert {"table.md", "table.csv", "tests.csv", "results.json", "accuracy.png", "moved-ours.png"} <= files
    assert "windows-random.png" in files
    assert not left_over(out)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_grid(read_grid(config).only(["*seed1*"]), again, inline_runner(), console)
    torch.set_num_threads(threads)
    assert len(accuracies(again)) == 3
    assert accuracies(again).items() <= accuracies(out).items()
    # all rules store the same, dense aside, and the hold-out is told apart from the test set
    stored = [size for name, (_, _, size) in accuracies(out).items() if "dense" not in name]
    assert max(stored) / min(stored) < 1.01
    assert all(0 < val < 1 for _, val, _ in accuracies(out).values())


def test_a_failed_run_is_recorded_tried_again_and_stops_nothing(tmp_path, config, console, monkeypatch):
    import autosample.experiments.run as run

    whole, calls = run.run_cell, []

    def sometimes(cell, *args):
        calls.append(cell)
        if cell.preset == "random" and len(calls) < 7:
            raise ZeroDivisionError("one\nline")
        return whole(cell, *args)

    monkeypatch.setattr(run, "run_cell", sometimes)
    grid = read_grid(config)
    done = run_grid(grid, tmp_path, inline_runner(), console)
    assert len(done) == 4
    failed = [json.loads(path.read_text()) for path in (tmp_path / "failed").iterdir()]
    assert [(f["type"], f["message"], f["cell"]["recipe"]["spec"]["rule"]) for f in failed] == [
        ("ZeroDivisionError", "one line", "random")
    ] * 2
    assert "ZeroDivisionError: one" in failed[0]["traceback"][-2]
    assert len(run_grid(grid, tmp_path, inline_runner(), console)) == 6
    assert len(calls) == 8
    assert not list((tmp_path / "failed").iterdir())


def test_a_worker_that_dies_fails_its_cell_only(tmp_path, config, console, monkeypatch):
    (tmp_path / "deadly.py").write_text(
        "import os, sys\nfrom autosample.data import Digits\n\n"
        "class Deadly(Digits):\n    def _load(self):\n        print('last words', file=sys.stderr, flush=True)\n"
        "        os._exit(7) if self.seed == 0 else None\n        return super()._load()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config.write_text(TINY.replace("Digits", "deadly.Deadly").replace("dense, random, ", ""))
    grid = read_grid(config)
    done = run_grid(grid, tmp_path / "out", worker_runner(1, 1), console)
    assert [record.settings["seed"] for record in done.values()] == [1]
    (path,) = (tmp_path / "out" / "failed").iterdir()
    failure = Failure(**json.loads(path.read_text()))
    assert (failure.type, failure.traceback) == ("WorkerDied", ["last words"])
    assert "code 7" in failure.message


def test_failures_end_with_code_1_and_what_is_there_is_collected(tmp_path, config, capsys, monkeypatch):
    from autosample.cli import ablate as verb

    monkeypatch.setattr(verb, "_runner", lambda *args: inline_runner())
    # nothing this small can be stored
    config.write_text(TINY.replace("[12]", "[12, 500]").replace("seeds: 2", "seeds: 1"))
    assert main(["ablate", str(config), "--out", str(tmp_path / "out"), "--only", "random"]) == 1
    printed = capsys.readouterr().out
    assert "a budget for random on this model must be between" in printed
    assert "1 of 5 runs" in printed
    assert main(["ablate", str(config), "--out", str(tmp_path / "out"), "--collect"]) == 0
    assert "`random`" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(tmp_path, config, number):
    config.write_text(TINY.replace("epochs: 1", "epochs: 200"))
    running = start(config, tmp_path / "out", "--jobs", "2")
    while not list((tmp_path / "out").glob("claims/*")):
        time.sleep(0.2)
    time.sleep(5)
    running.send_signal(number)
    said, _ = running.communicate()
    assert running.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], said
    assert not left_over(tmp_path / "out")
    assert not workers_of(running.pid)


def workers_of(pid):
    """Worker processes whose runner this was: those that have lost it have been given to init."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    mine = [line.split(None, 2) for line in listed.splitlines() if "autosample.experiments.worker" in line]
    return [line for line in mine if line[1] in (str(pid), "1")]


@pytest.mark.slow
def test_killed_fifteen_times_it_ends_with_the_same_records(tmp_path, config):
    """SIGKILL at random moments: while it starts, and a little after some run has ended."""
    config.write_text(TINY.replace("seeds: 2", "seeds: 10").replace("random", "folded"))
    undisturbed = start(config, tmp_path / "whole", "--jobs", "2")
    said, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, said
    rng, killed = random.Random(0), 0
    for _ in range(15):
        wanted = len(accuracies(tmp_path / "killed")) + rng.randint(1, 2)
        starting = rng.random() < 0.2
        running = start(config, tmp_path / "killed", "--jobs", "2")
        while not starting and running.poll() is None and len(accuracies(tmp_path / "killed")) < wanted:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 8 if starting else 0.6))
        killed += running.poll() is None
        running.kill()
        running.communicate()
        while workers_of(running.pid):  # they notice that their runner is gone
            time.sleep(0.1)
        accuracies(tmp_path / "killed")  # every record there is, is whole
    assert killed >= 12
    last = start(config, tmp_path / "killed", "--jobs", "2")
    said, _ = last.communicate()
    assert last.returncode == 0, said
    assert accuracies(tmp_path / "killed") == accuracies(tmp_path / "whole")
    assert len(accuracies(tmp_path / "killed")) == 30
    assert not left_over(tmp_path / "killed")
    assert not (tmp_path / "killed" / "failed").exists() or not list((tmp_path / "killed" / "failed").iterdir())
