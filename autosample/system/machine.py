"""What machine this is: its processor, cores and threads."""

import os
import platform
from functools import cache
from pathlib import Path


@cache
def processor() -> str:
    """The processor's name, as far as the system tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@cache
def instructions() -> str:
    """The instruction sets of the processor, as far as the system tells them."""
    return _cpuinfo("flags") or _cpuinfo("Features") or platform.processor()


def _cpuinfo(field: str) -> str:
    """The first value of a field of `/proc/cpuinfo`; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def hardware() -> str:
    """The processor's name, and how many cores the machine has, as one line."""
    return f"{processor()}, {os.cpu_count()} cores"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(jobs: int) -> int:
    """Threads for each of `jobs` processes: the cores shared out, or fewer if `OMP_NUM_THREADS` says so."""
    share = max(1, cores() // jobs)
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(told)) if told.isdigit() and int(told) else share
