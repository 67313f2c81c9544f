"""A training of a folded net that is killed at random moments ends with the numbers of an undisturbed one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from autosample.artifact import load_any
from autosample.artifact.checkpoint import load_file

EPOCHS, KILLS = 5, 2
FIT = (
    "fit", "--config=experiment/digits", "--config=quantize/int8", "--model.model=digitnet", "--model.spec=folded",
    "--model.spec_args={windows: 4, options: {blocks: 3, overlap: 1}}", "--test_after_fit=false",
    f"--trainer.max_epochs={EPOCHS}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
)  # fmt: skip


def start(folder: Path, *more: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    with (folder / "printed").open("a") as out:
        command = [sys.executable, "-m", "autosample", *FIT, *more]
        return subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)


def finished(process: subprocess.Popen, folder: Path) -> Path:
    """The last checkpoint of a training that has come to its end."""
    assert process.wait(timeout=600) == 0, (folder / "printed").read_text()[-2000:]
    return newest(folder)


def newest(folder: Path) -> Path | None:
    found = sorted(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return found[-1] if found else None


def epoch(folder: Path) -> int:
    """The epoch of the last checkpoint, which is whole whenever one looks."""
    return -1 if (path := newest(folder)) is None else load_file(path)["epoch"]


@pytest.mark.slow
def test_killed_trainings_end_with_the_same_numbers(tmp_path):
    undisturbed = finished(start(tmp_path / "whole"), tmp_path / "whole")
    folder, rng = tmp_path / "killed", random.Random(0)
    for _ in range(KILLS):
        before = epoch(folder)
        process = start(folder, *([f"--ckpt_path={newest(folder)}"] if before >= 0 else []))
        while process.poll() is None and epoch(folder) <= before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, (folder / "printed").read_text()[-2000:]
        process.send_signal(signal.SIGKILL)
        process.wait()
        load_any(newest(folder))
    assert epoch(folder) < EPOCHS - 1
    last = finished(start(folder, f"--ckpt_path={newest(folder)}"), folder)
    saved, wanted = (load_file(path) for path in (last, undisturbed))
    assert (saved["epoch"], saved["global_step"]) == (wanted["epoch"], wanted["global_step"])
    assert saved["state_dict"].keys() == wanted["state_dict"].keys()
    for name, tensor in saved["state_dict"].items():
        assert torch.equal(tensor, wanted["state_dict"][name]), name
    assert not [path for path in folder.rglob("*") if "partial" in path.name and path.parent == last.parent]
