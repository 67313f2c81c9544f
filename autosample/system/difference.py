"""Differences between tensors and their expected values."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """The largest difference between outputs.

    Attributes:
        relative: Divided by the largest finite number expected in the same output.
        absolute: Not divided.
    """

    relative: float
    absolute: float


def largest_difference(expected: Sequence[Tensor], got: Sequence[Tensor]) -> Difference:
    """The largest difference over all outputs, computed in double precision.

    Equal numbers have no difference, also if both are infinite or both are NaN. The difference is infinite if shapes
    differ, or if only one of two numbers is NaN or infinite.
    """
    if [t.shape for t in expected] != [t.shape for t in got]:
        return Difference(math.inf, math.inf)
    worst = torch.zeros(2, dtype=torch.float64)
    for a, b in zip(expected, got, strict=True):
        wide = torch.complex128 if a.is_complex() else torch.float64
        a, b = a.detach().to(wide), b.detach().to(wide)
        differ = ~((a == b) | (a.isnan() & b.isnan()))
        largest = a[a.isfinite()].abs()
        scale = largest.max().clamp_min(1e-30) if len(largest) else torch.ones((), dtype=torch.float64)
        apart = (a - b)[differ].abs().nan_to_num(nan=math.inf, posinf=math.inf)
        absolute = apart.max() if len(apart) else torch.zeros((), dtype=torch.float64)
        worst = worst.maximum(torch.stack([(absolute / scale).cpu(), absolute.cpu()]))
    return Difference(*worst.tolist())


def relative_error(expected: Tensor, got: Tensor) -> float:
    """`‖x − x̂‖ / ‖x‖`, in the tensors' own precision; zero for a tensor that is all zeros."""
    return float((expected - got).norm() / expected.norm().clamp_min(1e-30)) if expected.any() else 0.0
