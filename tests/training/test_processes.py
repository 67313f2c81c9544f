"""Training and predicting with two processes on the CPU, from the command line and from Python."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import PRESETS, options

from autosample.cli.main import main

SCRIPT = Path(__file__).with_name("processes.py")
LOG = Path("runs/fit/digits/version_0")


def ran(folder: Path, presets: tuple[str, ...]) -> None:
    """Run the script in a folder, with nets of these presets. What it printed is in `printed`.

    Its processes are killed after five minutes.
    """
    with (folder / "printed").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *presets],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, (folder / "printed").read_text()[-3000:]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def one_process(verb: str, log: Path) -> None:
    main([*options(verb, log), "--trainer.strategy=auto", "--trainer.devices=1"])


def check_files_and_lines_come_once(folder: Path) -> None:
    printed = (folder / "printed").read_text()
    for line in ("times smaller than dense", "log and checkpoints:", "predictions:"):
        assert printed.count(line) == 1
    log = folder / LOG
    assert len(table(log / "report.csv")) > 3
    rows = table(log / "offsets.csv")
    assert [row["epoch"] for row in rows] == sorted(row["epoch"] for row in rows)
    assert len({(row["epoch"], row["layer"]) for row in rows}) == len(rows) > 2


def check_the_accuracy_is_that_of_the_checkpoint(folder: Path, alone: Path) -> None:
    (both,) = (row["test/acc"] for row in table(folder / LOG / "metrics.csv") if row.get("test/acc"))
    one_process("test", folder / LOG)
    (found,) = alone.rglob("metrics.csv")
    (one,) = (row["test/acc"] for row in table(found) if row.get("test/acc"))
    assert float(both) == pytest.approx(float(one), abs=1e-6)


def check_the_predictions_are_those_of_one_process(folder: Path, alone: Path) -> None:
    (both,) = folder.rglob("predictions.csv")
    one_process("predict", folder / LOG)
    (one,) = alone.rglob("predictions.csv")
    assert table(both) == table(one)
    assert [int(row["index"]) for row in table(one)] == list(range(len(table(one))))


def check_both_end_with_the_same_parameters_and_buffers(folder: Path, preset: str) -> None:
    """Also batch norm's statistics and NES's routing map, which move with each process's own batches."""
    first, second = (torch.load(folder / preset / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["steps"] == second["steps"] == 8
    assert first["net"].keys() == second["net"].keys()
    for name, tensor in first["net"].items():
        assert torch.equal(tensor, second["net"][name]), name
    frozen = [tensor for name, tensor in first["net"].items() if name.endswith("frozen_bits")]
    assert all(frozen)
    assert (len(frozen) > 0) == (preset != "wsnet")


def check_they_see_different_examples(folder: Path, preset: str) -> None:
    first, second = (torch.load(folder / preset / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not set(first["seen"]) & set(second["seen"])


@pytest.mark.slow
@pytest.mark.parametrize("presets", [pytest.param(("nes",), marks=pytest.mark.ddp), PRESETS], ids=["one", "all"])
def test_two_processes(tmp_path, monkeypatch, presets):
    """One test for all, as starting them takes most of the time."""
    both, alone = tmp_path / "both", tmp_path / "alone"
    both.mkdir()
    alone.mkdir()
    ran(both, presets)
    monkeypatch.chdir(alone)
    check_files_and_lines_come_once(both)
    check_the_accuracy_is_that_of_the_checkpoint(both, alone)
    check_the_predictions_are_those_of_one_process(both, alone)
    for preset in presets:
        check_both_end_with_the_same_parameters_and_buffers(both, preset)
    check_they_see_different_examples(both, presets[0])
