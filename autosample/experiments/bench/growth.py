"""How the time of a layer grows with its size: a straight line through the logarithms."""

import math
from collections.abc import Mapping, Sequence

from autosample.experiments.bench.record import Row


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """The exponent `b` of `seconds = a·size^b`, by least squares in logarithms, and how well it fits (R²)."""
    x, y = [math.log(s) for s in sizes], [math.log(t) for t in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    along = sum((a - mean_x) ** 2 for a in x)
    b = sum((p - mean_x) * (q - mean_y) for p, q in zip(x, y, strict=True)) / along
    left = sum((q - mean_y - b * (p - mean_x)) ** 2 for p, q in zip(x, y, strict=True))
    total = sum((q - mean_y) ** 2 for q in y)
    return {"slope": b, "r2": 1 - left / total if total else 1.0}


def slopes(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """The slope of the median times, by sweep and side, for sides with at least two measured points."""
    return {
        sweep: {side: slope(*zip(*points, strict=True)) for side, points in sides.items() if len(points) > 1}
        for sweep, sides in curves(rows).items()
    }


def curves(rows: Sequence[Row]) -> Mapping[str, Mapping[str, list[tuple[float, float]]]]:
    """Points (size, seconds) by sweep and side, sorted by size; sweeps and sides in the order of the rows."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if row.workload.sweep and not row.error:
            for name, side in row.sides.items():
                found.setdefault(row.workload.sweep, {}).setdefault(name, []).append((row.workload.at, side.median))
    return {sweep: {name: sorted(points) for name, points in sides.items()} for sweep, sides in found.items()}
