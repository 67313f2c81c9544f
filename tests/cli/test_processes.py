"""The command line with two processes: what users start, not a process group of our own."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autosample.cli.main import main

DDP = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu")
FIT = (
    "fit",
    "--config=experiment/digits",
    "--config=quantize/int8",
    "--model.model=digitnet",
    "--model.spec_args={options: {afford: 10, freeze_at: 0.5}}",
    "--trainer.max_epochs=2",
)


def run(folder: Path, *args: str) -> str:
    """What a command prints. All its processes are killed after three minutes."""
    command = [sys.executable, "-m", "autosample", *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        printed = process.communicate(timeout=180)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed[-3000:]
    return printed


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return folder, run(folder, *FIT, *DDP)


@pytest.mark.slow
@pytest.mark.ddp
def test_training_ends_and_writes_and_prints_once(trained):
    folder, printed = trained
    assert printed.count("times smaller than dense") == 1
    assert printed.count("log and checkpoints:") == 1
    log = folder / "runs/fit/digits/version_0"
    assert sorted(path.name for path in log.parent.iterdir()) == ["version_0"]
    assert len(table(log / "report.csv")) > 3
    rows = table(log / "offsets.csv")
    assert [row["epoch"] for row in rows] == sorted(row["epoch"] for row in rows)
    assert len({(row["epoch"], row["layer"]) for row in rows}) == len(rows) > 2


@pytest.mark.slow
@pytest.mark.ddp
def test_the_accuracy_of_two_processes_is_that_of_the_checkpoint(trained, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    log = Path("runs/fit/digits/version_0")
    (both,) = (row["test/acc"] for row in table(log / "metrics.csv") if row.get("test/acc"))
    one_process("test", log)
    (one,) = (row["test/acc"] for row in table(log.with_name("version_1") / "metrics.csv") if row.get("test/acc"))
    assert float(both) == pytest.approx(float(one), abs=1e-6)


@pytest.mark.slow
@pytest.mark.ddp
def test_the_predictions_of_two_processes_are_those_of_one(trained, monkeypatch):
    folder, _ = trained
    log = folder / "runs/fit/digits/version_0"
    printed = run(folder, *options("predict", log), *DDP)
    assert printed.count("predictions:") == 1
    (both,) = folder.rglob("predictions.csv")
    together = table(both)
    both.unlink()
    monkeypatch.chdir(folder)
    one_process("predict", log)
    (one,) = folder.rglob("predictions.csv")
    assert together == table(one)
    assert [int(row["index"]) for row in together] == list(range(len(together)))


def options(verb: str, log: Path) -> tuple[str, ...]:
    (checkpoint,) = log.rglob("last.ckpt")
    return (verb, f"--config={log / 'config.yaml'}", f"--ckpt_path={checkpoint}")


def one_process(verb: str, log: Path) -> None:
    main([*options(verb, log), "--trainer.strategy=auto", "--trainer.devices=1"])
