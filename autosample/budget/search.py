"""Search for the smallest ratio at which a model costs at most a target: the same for bytes and for milliseconds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Cost = Callable[[float], float]


@dataclass(frozen=True)
class Point:
    """What a model costs at a ratio."""

    ratio: float
    cost: float


def descend(cost: Cost, target: float, start: Point, *, stride: float, largest: float) -> list[Point]:
    """Points from `start` on, each at `stride` times the ratio before, up to the first that costs at most the target.

    The first one from the dense end counts, as costs can grow again at high ratios. If none is found, the last point
    is the first beyond the ratio `largest`, and costs more than the target.
    """
    points = [start]
    while points[-1].cost > target and points[-1].ratio < largest:
        ratio = points[-1].ratio * stride
        points.append(Point(ratio, cost(ratio)))
    return points


def narrow(
    cost: Cost,
    target: float,
    above: Point,
    within: Point,
    *,
    step: float,
    enough: Callable[[Point], bool] = lambda point: False,
) -> list[Point]:
    """The points of a bisection in the logarithm of the ratio.

    Args:
        cost: Cost of the model at a ratio.
        target: Largest cost.
        above, within: Points that cost more than the target, and at most the target; `above` has the lower ratio.
        step: The search ends when the two ratios are nearer than this factor.
        enough: Whether the search may end at a point.
    """
    points = [within]
    while within.ratio / above.ratio > step and not enough(points[-1]):
        middle = math.sqrt(above.ratio * within.ratio)
        points.append(Point(middle, cost(middle)))
        above, within = (points[-1], within) if points[-1].cost > target else (above, points[-1])
    return points


def smallest(points: list[Point], target: float) -> Point:
    """The point with the smallest ratio, of those that cost at most the target; there must be one."""
    return min((point for point in points if point.cost <= target), key=lambda point: point.ratio)
