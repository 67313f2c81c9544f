"""Two nodes over loopback, as torchrun starts them: one dies, and the training goes on from its last checkpoint."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from autosample.artifact.checkpoint import load_file

pytestmark = pytest.mark.slow

EPOCHS = 3
# see docs/many-devices.md
SHARED = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
FIT = (
    "fit", "--config=experiment/digits", "--config=quantize/int8", "--model.model=digitnet", "--model.spec=folded",
    "--model.spec_args={options: {assignment: learned, every: 3, moves: 0.5}}", "--ckpt_path=last",
    "--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.enable_progress_bar=false",
    f"--trainer.max_epochs={EPOCHS}", "--trainer.limit_train_batches=4", "--trainer.callbacks+=EMAWeightAveraging",
)  # fmt: skip

# callbacks of the user's: the last process dies in the middle of the second epoch, once; or it fails
CALLBACKS = """
import os
import signal
from pathlib import Path
import pytorch_lightning as pl

class Dies(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_rank == trainer.world_size - 1 and trainer.current_epoch == 1 and index == 2:
            if not Path("died").exists():
                Path("died").touch()
                os.kill(os.getpid(), signal.SIGKILL)

class Fails(pl.Callback):
    def __init__(self, rank: int):
        self.rank = rank

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_rank == self.rank and index == 2:
            raise OSError("this process has lost its disk")
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(folder: Path, command: list[str]) -> subprocess.Popen:
    (folder / "callbacks.py").write_text(CALLBACKS)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    with (folder / "printed").open("a") as out:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"} | SHARED,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(processes: list[subprocess.Popen], folder: Path, seconds: float) -> list[int]:
    """The exit codes, after at most so many seconds."""
    try:
        limit = time.monotonic() + seconds
        return [process.wait(timeout=max(limit - time.monotonic(), 0.1)) for process in processes]
    except subprocess.TimeoutExpired:
        pytest.fail(f"a process hangs: {(folder / 'printed').read_text()[-3000:]}")
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def on_two_nodes(folder: Path, each: int, *more: str) -> dict[str, torch.Tensor]:
    """What the last checkpoint holds after a training on two nodes with so many processes each.

    Without `SHARED`, torchrun keeps the addresses of processes that have died, and those that start again wait for
    them.
    """
    folder.mkdir()
    place = (f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-backend=c10d", "--rdzv-id=test")
    command = [
        *("-m", "torch.distributed.run", "--nnodes=2", f"--nproc-per-node={each}", "--max-restarts=2", *place),
        *("--local-addr=127.0.0.1", "--monitor-interval=1", "-m", "autosample", *FIT),
        *("--trainer.num_nodes=2", f"--trainer.devices={each}", *more),
    ]
    nodes = [start(folder, command) for _ in range(2)]
    assert end(nodes, folder, 500) == [0, 0], (folder / "printed").read_text()[-3000:]
    newest = max(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    saved = load_file(newest)
    assert (saved["epoch"], saved["global_step"]) == (EPOCHS - 1, 4 * EPOCHS)
    # besides the average, which is saved as the net, the net that goes on
    return {**saved["state_dict"], **{f"last.{name}": t for name, t in saved["current_model_state"].items()}}


@pytest.mark.parametrize("each", [1, 2])
def test_a_training_survives_the_loss_of_a_process(tmp_path, each):
    whole = on_two_nodes(tmp_path / "whole", each)
    folder = tmp_path / "killed"
    killed = on_two_nodes(folder, each, "--trainer.callbacks+=callbacks.Dies")
    assert (folder / "died").exists()
    assert len(list(folder.rglob("version_*"))) == 2
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        if each == 1:
            assert torch.equal(tensor, killed[name]), name
        else:  # from three processes on, torch adds up the gradients of a run's first step in another order
            torch.testing.assert_close(tensor, killed[name], rtol=1e-3, atol=1e-5, msg=name)
    # the first process writes all files, and each once
    versions = sorted(folder.rglob("version_*"))
    found = [sorted(path.name for path in version.rglob("*") if path.is_file()) for version in versions]
    assert all(len(names) == len(set(names)) for names in found)
    with (versions[-1] / "metrics.csv").open() as file:
        epochs = [row["epoch"] for row in csv.DictReader(file) if row["train/loss"]]
    assert epochs == ["1", "2"]
    assert (folder / "printed").read_text().count("times smaller than dense") == 1
    assert not list(folder.rglob("*partial*"))


@pytest.mark.parametrize("rank", [0, 1])
def test_no_process_waits_for_one_that_has_failed(tmp_path, rank):
    """Both end, although Lightning itself would let the second one wait for the first."""
    more = ("--trainer.devices=2", "--trainer.callbacks+=callbacks.Fails", f"--trainer.callbacks.rank={rank}")
    process = start(tmp_path, ["-m", "autosample", *FIT, *more])
    (code,) = end([process], tmp_path, 400)
    assert code != 0
    time.sleep(1)
    left = subprocess.run(["ps", "-o", "stat=", "-g", str(process.pid)], capture_output=True, text=True)
    assert [state for state in left.stdout.split() if not state.startswith("Z")] == []  # nobody may collect dead ones
    assert "this process has lost its disk" in (tmp_path / "printed").read_text()
