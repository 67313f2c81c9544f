"""Peak memory of one side: how much a fresh process grows while it computes.

On a CPU this needs its own process. torch counts only its own allocations, but the fused kernel and oneDNN have other
buffers. `python -m autosample.experiments.bench.memory FILE THREADS` prints the bytes.
"""

import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import torch

from autosample.errors import one_line
from autosample.experiments.bench.sides import Side

_PATIENCE = 900  # seconds for one side, including compilation
_CALLS = 3
# Freed blocks of 64 KiB and more go back to the system at once. Otherwise the allocator keeps them, and how much of
# them it reuses is chance.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_memory(side: Side, threads: int) -> tuple[int | None, str]:
    """Peak memory of a side [bytes]: its weights, and everything that calls allocate beside these and the input.

    Returns the bytes and an empty text, or `None` and the reason why it could not be measured.
    """
    if side.args[0].device.type != "cpu":
        return _on_accelerator(side), ""
    if not Path("/proc/self/clear_refs").exists():
        return None, "peak memory is measured on Linux only"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "side.pt"
        try:
            torch.save(vars(side), path)
        except Exception as error:  # a user's model may have hooks or closures
            return None, f"{side.name}: cannot be sent to another process: {one_line(error)[:150]}"
        command = [sys.executable, "-m", "autosample.experiments.bench.memory", str(path), str(threads)]
        env = {**os.environ, **_ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_PATIENCE, check=True)
            return int(done.stdout.split()[-1]) + _weights(side), ""
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines() or [""]
            return None, f"{side.name}: peak memory: {one_line(said[-1])[:150]}"


@torch.no_grad()
def _on_accelerator(side: Side) -> int:
    call = side.start()
    call()
    torch.accelerator.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(_CALLS):
        call()
    torch.accelerator.synchronize()
    return torch.cuda.max_memory_allocated() - before + _weights(side)


def _weights(side: Side) -> int:
    return sum(t.nbytes for t in (*side.module.parameters(), *side.module.buffers()))


def _status() -> dict[str, int]:
    """Memory sizes of this process [bytes], as the system's kernel reports them."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {parts[0][:-1]: 1024 * int(parts[1]) for parts in lines if parts[-1] == "kB"}


def growth(side: Side) -> int:
    """Bytes by which this process grows during calls of a side.

    A first call, in a thread of its own, loads code, compiles and fills caches: this is not counted. Memory that
    belongs to a thread, such as the fused kernel's scratch memory, is freed with that thread, so it is counted.
    """
    call = side.start()

    def once() -> None:
        with torch.no_grad():
            call()

    first = threading.Thread(target=once)
    first.start()
    first.join()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # not getrusage: its peak includes everything earlier, even of the process that started this one
    Path("/proc/self/clear_refs").write_text("5")
    before = _status()
    for _ in range(_CALLS):
        once()
    after = _status()
    code = after["RssFile"] - before["RssFile"]  # pages of libraries that were used for the first time
    return max(after["VmHWM"] - before["VmRSS"] - code, 0)


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    print(growth(Side(**torch.load(path, weights_only=False))))


if __name__ == "__main__":
    main()
