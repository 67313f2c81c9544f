"""Measuring speed as a ratio: the compared sides take turns, in one process, on the same threads."""

import ctypes
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from autosample.errors import ConfigError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt


@dataclass(frozen=True)
class Timing:
    """Seconds of one side: median and quartiles over the rounds.

    Attributes:
        median, low, high: Median and quartiles of one call [s].
        rounds: Number of calls in these.
        times: Time of each counted call, in the order of the rounds [s].
    """

    median: float
    low: float
    high: float
    rounds: int
    times: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of a ratio of times."""

    median: float
    low: float
    high: float


def time_in_turn(
    sides: Sequence[Callable[[], object]],
    *,
    rounds: int = 15,
    budget: float = 2.0,
    device: torch.device | None = None,
) -> list[Timing]:
    """Time several functions in turn. Each round calls each function once, so other load affects all of them.

    The order changes from round to round, so no function always runs after the same other one.

    Args:
        sides: Functions to call.
        rounds: Maximum number of rounds, after two that are not counted.
        budget: Time after which no new round starts [s]; there are at least three rounds.
        device: Device of the functions; each call waits for an accelerator to finish.
    """

    def call(side: Callable[[], object]) -> float:
        start = time.perf_counter()
        side()
        if device is not None and device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    for side in sides:
        call(side)
        call(side)
    taken: list[list[float]] = [[] for _ in sides]
    order, chance = list(range(len(sides))), random.Random(0)
    start = time.perf_counter()
    while len(taken[0]) < 3 or (len(taken[0]) < rounds and time.perf_counter() - start < budget):
        chance.shuffle(order)
        for i in order:
            taken[i].append(call(sides[i]))
    return [Timing(*_quartiles(times), len(times), tuple(times)) for times in taken]


def ratio(slow: Timing, fast: Timing) -> Ratio:
    """Time of `slow` divided by time of `fast`: median and quartiles over the rounds in which both ran."""
    return Ratio(*_quartiles(a / b for a, b in zip(slow.times, fast.times, strict=True)))


def keep_memory() -> None:
    """From now on, keep freed memory in this process instead of returning large blocks to the system.

    Otherwise each call that makes large tensors requests their pages again. On some machines this takes longer than
    the computation, and varies more. PyTorch's tuning guide recommends allocators that keep memory.

    Raises:
        ConfigError: The system's allocator is not glibc's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError) as error:
        raise ConfigError("--keep-memory needs glibc, which this system does not use: leave it out") from error
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _quartiles(numbers: Iterable[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return median, low, high
