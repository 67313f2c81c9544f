"""Measuring speed as a ratio: sides that are compared run in turn, in one process, on the same threads."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one side: median and quartiles over the rounds.

    Attributes:
        median, low, high: Of one call [s].
        rounds: How many calls they are taken over.
    """

    median: float
    low: float
    high: float
    rounds: int


def time_in_turn(
    sides: Sequence[Callable[[], object]],
    *,
    rounds: int = 15,
    budget: float = 2.0,
    device: torch.device | None = None,
) -> list[Timing]:
    """Time several functions in turn: every round calls each once, so that what else the machine does meets all.

    Args:
        sides: What to call.
        rounds: Most rounds, after two that are not counted.
        budget: Time after which no further round is begun [s]; three are made at least.
        device: Where they run; an accelerator is waited for after each call.
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
    start = time.perf_counter()
    while len(taken[0]) < 3 or (len(taken[0]) < rounds and time.perf_counter() - start < budget):
        for times, side in zip(taken, sides, strict=True):
            times.append(call(side))
    quartiles = (statistics.quantiles(times, n=4, method="inclusive") for times in taken)
    return [Timing(median, low, high, len(taken[0])) for low, median, high in quartiles]
