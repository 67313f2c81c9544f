"""Facts about this machine: processor, cores and threads."""

import os
import platform
from functools import cache
from pathlib import Path


@cache
def processor() -> str:
    """The processor's name, as the system reports it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@cache
def instructions() -> str:
    """The instruction sets of the processor, as the system reports them."""
    return _cpuinfo("flags") or _cpuinfo("Features") or platform.processor()


def lacks_bf16() -> bool:
    """Whether the processor is known to have no bf16 arithmetic; then float32 is several times as fast."""
    known = _cpuinfo("flags") or _cpuinfo("Features")
    return bool(known) and "bf16" not in known


def _cpuinfo(field: str) -> str:
    """The first value of a field of `/proc/cpuinfo`; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def hardware() -> str:
    """The processor's name and the machine's number of cores, as one line."""
    return f"{processor()}, {os.cpu_count()} cores"


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(jobs: int) -> int:
    """Threads for each of `jobs` processes: cores divided by jobs, but not more than `OMP_NUM_THREADS`."""
    share = max(1, cores() // jobs)
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(told)) if told.isdigit() and int(told) else share
