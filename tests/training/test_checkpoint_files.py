"""Checkpoint files: whole or not at all, checked when read, and readable by torch alone."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from autosample.artifact import load_any
from autosample.artifact.checkpoint import load_file, write_checkpoint
from autosample.cli.main import main
from autosample.errors import ArtifactError
from autosample.training import Classifier, WholeCheckpoints

CHECKPOINT = {"state_dict": {"net.a": torch.arange(5000.0)}, "hyper_parameters": {"num_classes": 3}, "epoch": 1}


def write(folder: Path, checkpoint=CHECKPOINT) -> Path:
    WholeCheckpoints().save_checkpoint(checkpoint, folder / "runs" / "last.ckpt")
    return folder / "runs" / "last.ckpt"


@pytest.mark.parametrize("options", [{}, {"mmap": True}, {"map_location": "meta"}])
def test_torch_reads_the_file_alone(tmp_path, options):
    saved = torch.load(write(tmp_path), weights_only=True, **options)
    assert saved["epoch"] == 1
    if not options.get("map_location"):
        assert torch.equal(saved["state_dict"]["net.a"], torch.arange(5000.0))
    assert zipfile.ZipFile(write(tmp_path)).testzip() is None
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["last.ckpt"]


def test_a_file_without_a_digest_is_read(tmp_path):
    torch.save(CHECKPOINT, tmp_path / "old.ckpt")
    assert load_file(tmp_path / "old.ckpt")["epoch"] == 1


def refused(path: Path) -> str:
    """What the error says."""
    with pytest.raises(ArtifactError) as caught:
        load_file(path)
    return str(caught.value)


def test_every_changed_byte_is_found(tmp_path):
    data, path = write(tmp_path).read_bytes(), tmp_path / "damaged.ckpt"
    draw = random.Random(0)
    for place in [*draw.sample(range(len(data)), 100), *range(len(data) - 104, len(data))]:
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :])
        error = refused(path)
        assert "checksum" in error or "cannot be read" in error
        assert len(error.splitlines()) == 1
        assert len(error) < 300


@pytest.mark.parametrize("size", [0, 100, 15_000, -100, -80, -1])
def test_a_cut_file_is_refused_in_one_line(tmp_path, size):
    data, path = write(tmp_path).read_bytes(), tmp_path / "cut.ckpt"
    path.write_bytes(data[:size])
    for read in (load_file, load_any, WholeCheckpoints().load_checkpoint, Classifier.load_from_checkpoint):
        with pytest.raises(ArtifactError, match=r"^[^\n]{0,300}$"):
            read(path)


class Full:
    """A number that cannot be pickled: as if the disk were full in the middle of the file."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_write_that_fails_keeps_the_earlier_file(tmp_path, error):
    path = write(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"last.ckpt cannot be written .*: free some space; earlier checkpoints are kept"
    ):
        write(tmp_path, {"big": torch.zeros(1000), "end": Full(error)})
    assert load_file(path)["epoch"] == 1
    assert [one.name for one in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_keeps_the_earlier_file(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        path = tmp_path / "last.ckpt"
        write_checkpoint({"epoch": 1, "x": torch.zeros(50_000)}, path)
        with pytest.raises(ArtifactError, match="cannot be written"):
            write_checkpoint({"epoch": 2, "x": torch.zeros(80_000)}, path)
        assert load_file(path)["epoch"] == 1
        assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def write_for_ever(path: Path, told: int) -> None:
    """Writes the file again and again; tells the number of each that is finished."""
    for epoch in itertools.count():
        tensors = {f"net.{i}": torch.full((20_000,), float(epoch)) for i in range(20)}
        WholeCheckpoints().save_checkpoint({"epoch": epoch, "state_dict": tensors}, path)
        os.write(told, epoch.to_bytes(4, "big"))


def killed(path: Path, wait: float) -> int:
    """Kills a process that writes a file, at a random moment. Returns the last number that it told."""
    here, there = os.pipe()
    process = os.fork()
    if process == 0:
        write_for_ever(path, there)
    os.close(there)
    first = os.read(here, 4)
    time.sleep(wait)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with os.fdopen(here, "rb") as pipe:
        return int.from_bytes((first + pipe.read())[-4:], "big")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_process_loses_nothing(tmp_path):
    path, draw, partials = tmp_path / "last.ckpt", random.Random(0), 0
    for _ in range(15):
        told = killed(path, draw.uniform(0, 0.05))
        partials += len(list(tmp_path.iterdir())) > 1
        saved = load_file(path)
        assert saved["epoch"] in (told, told + 1)
        assert len(saved["state_dict"]) == 20
        assert all((tensor == saved["epoch"]).all() for tensor in saved["state_dict"].values())
    assert partials > 3  # some were killed in the middle of a file
    write_checkpoint(CHECKPOINT, path)
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]  # what the killed left is swept


def test_the_verb_fit_writes_with_digests(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
    net = ["--model.model=digitnet", "--trainer.accelerator=cpu", "--test_after_fit=false", "--trainer.precision=32"]
    assert main(["fit", *options, *net]) == 0
    paths = list(tmp_path.rglob("*.ckpt"))
    assert len(paths) == 2
    assert all(b"autosample sha256 " in path.read_bytes()[-82:] for path in paths)
    (last,) = tmp_path.rglob("last.ckpt")
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    capsys.readouterr()
    assert main(["fit", *options, *net, f"--ckpt_path={last}"]) == 2
    assert capsys.readouterr().err.endswith(
        "has another checksum than when it was written: the file is damaged, use another copy\n"
    )
