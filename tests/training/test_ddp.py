"""Two processes on the CPU. Positions freeze in the middle, so parameters fall out of use while DDP watches them.

NES's routing map moves with each process's own batch. Like batch norm's statistics it is a buffer, which DDP
broadcasts from the first process before each forward pass: it differs between two passes, and what is frozen agrees
from the first pass after the freeze on.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("ddp_worker.py")
PRESETS = ("autosample", "nes", "wsnet", "kmeans")


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    out = tmp_path_factory.mktemp("ddp")
    done = subprocess.run([sys.executable, WORKER, out], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {p: [torch.load(out / p / f"{rank}.pt", weights_only=True) for rank in (0, 1)] for p in PRESETS}


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("preset", PRESETS)
def test_both_processes_end_with_the_same_parameters_and_buffers(states, preset):
    first, second = states[preset]
    assert first["steps"] == second["steps"] == 8
    assert first["net"].keys() == second["net"].keys()
    for name, tensor in first["net"].items():
        assert torch.equal(tensor, second["net"][name]), name
    frozen = [tensor for name, tensor in first["net"].items() if name.endswith("frozen")]
    assert all(frozen)
    assert (len(frozen) > 0) == (preset != "wsnet")


@pytest.mark.slow
@pytest.mark.ddp
def test_processes_see_different_examples(states):
    first, second = states["autosample"]
    assert not set(first["seen"]) & set(second["seen"])
