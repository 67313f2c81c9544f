"""Loading must not cost more than loading dense weights does."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import timm

import autosample

LOAD = """
import json, sys, time
import torch, timm, safetensors.torch, autosample, autosample.models
torch.set_num_threads(1)

def dense(path):
    model = timm.create_model("resnet50")
    model.load_state_dict(safetensors.torch.load_file(path))
    return model

load = dense if sys.argv[1] == "dense" else autosample.load

def peak():  # of this process alone: ru_maxrss begins with that of its parent
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

timm.create_model("test_resnet"), torch.zeros(1, device="meta") + 1
base = peak()
times = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    model = load(sys.argv[2])
    times.append(time.perf_counter() - start)
    first = peak() - base if len(times) == 1 else first
print(json.dumps([min(times), times[0], first]))
"""


def cost(kind: str, path, rounds: int) -> tuple[float, float, int]:
    """Least time and time of the first call [s], growth of the process by the first call [KiB]."""
    call = [sys.executable, "-c", LOAD, kind, str(path), str(rounds)]
    return tuple(json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["wsnet", "autosample", "hashednet", "kmeans"])
def test_resnet50_loads_as_fast_and_in_as_little_memory_as_dense(tmp_path, preset):
    model = timm.create_model("resnet50")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "dense.safetensors")
    autosample.convert_(model, preset, ratio=8)
    autosample.quantize_(model, 8)
    autosample.save(model, tmp_path / "saved")
    turns = [(cost("dense", tmp_path / "dense.safetensors", 3), cost("saved", tmp_path / "saved", 3)) for _ in range(2)]
    dense, ours = ([min(side[i] for side in sides) for i in range(3)] for sides in zip(*turns, strict=True))
    time, first, peak = (a / b for a, b in zip(ours, dense, strict=True))
    print(f"{preset} against dense: time {time:.2f}, first call {first:.2f}, growth of the process {peak:.2f}")
    assert ours[0] <= 1.2 * dense[0]
    assert ours[2] <= dense[2]
