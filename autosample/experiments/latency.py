"""Time of a forward pass of the deployed net."""

import torch
from torch import nn

from autosample.budget.latency import time_deployed
from autosample.system.timing import Timing


def measure_latency(net: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Time of a forward pass of the deployed net at batch 1, on the net's device with the current threads.

    Args:
        net: Net in evaluation mode.
        shape: Shape of one example, without the batch.

    Returns:
        `median`, `low` and `high` quartile [ms], and the number of `threads`.
    """
    x = torch.zeros(1, *shape, device=next(net.parameters()).device)
    return {**milliseconds(time_deployed(net, x)), "threads": torch.get_num_threads()}


def milliseconds(timing: Timing) -> dict[str, float]:
    """Median and quartiles [ms]."""
    spread = {"median": timing.median, "low": timing.low, "high": timing.high}
    return {name: round(1e3 * value, 4) for name, value in spread.items()}
