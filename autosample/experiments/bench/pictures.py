"""Pictures of a record: speed-ups over dense torch, or time over size."""

import re
from pathlib import Path
from typing import Any

from autosample.experiments.bench.growth import curves
from autosample.experiments.bench.record import Record
from autosample.experiments.bench.show import title_of
from autosample.experiments.colours import METHODS, PLANS, for_text
from autosample.experiments.drawing import WIDTH, drawn, plain_log
from autosample.experiments.labels import End, label_ends

# names of the quantities that the growth suite varies
_QUANTITIES = {"N": "filters", "T": "samples in the input", "ratio": "dense weights per stored number"}


def plot(record: Record, path: Path) -> None:
    """Draw a record as a PNG: a growth suite as curves, any other as bars. Without ratios nothing is drawn."""
    if record.slopes:
        _growth(record, path)
    elif any(row.best for row in record.rows):
        _bars(record, path)


def _bars(record: Record, path: Path) -> None:
    """A bar for the best ratio of each row, with its quartiles."""
    rows = [row for row in record.rows if row.best]
    best = [row.ratios[row.best] for row in rows]
    spread = [[r.median - r.low for r in best], [r.high - r.median for r in best]]
    with drawn(path, figsize=(WIDTH, 1.4 + 0.36 * len(rows)), layout="constrained") as (figure, grid):
        axes, places = grid[0, 0], list(range(len(rows)))
        colours = [_colour(row.best) for row in rows]
        axes.barh(places, [r.median for r in best], xerr=spread, color=colours, height=0.6, capsize=3)
        for place, r in zip(places, best, strict=True):
            axes.annotate(
                f"{r.median:.{1 if r.median >= 10 else 2}f}x",
                (r.high, place),
                (6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.axvline(1, color=METHODS["dense"].colour, linewidth=1)
        axes.set_yticks(places, [f"{row.workload.name} ({row.best})" for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(min(0.9, *(0.9 * r.low for r in best)), 1.5 * max(r.high for r in best))
        plain_log(axes.xaxis)
        axes.set_xlabel("speed-up over the fastest dense PyTorch")
        figure.suptitle(title_of(record), x=0.02, ha="left")


def _growth(record: Record, path: Path) -> None:
    """Time over size, one panel per sweep. Labels give the power of the size by which time grows."""
    found = curves(record.rows)
    across = 2 if len(found) % 2 == 0 else 1
    down = len(found) // across
    with drawn(path, down, across, figsize=(1.3 * WIDTH, 0.8 + 3.6 * down)) as (figure, grid):
        head = 1.15 / (0.8 + 3.6 * down)
        figure.subplots_adjust(left=0.07, right=0.85, bottom=0.07, top=1 - head, wspace=0.6, hspace=0.42)
        told = f"time against size: {title_of(record)}\nnumber: the power of the size by which the time grows"
        figure.suptitle(told, x=0.02, ha="left", fontsize=14)
        # sweeps of the same quantity stand side by side
        order = sorted(found, key=lambda sweep: list(_QUANTITIES).index(sweep.split()[-1]))
        for axes, sweep in zip(grid.flat, order, strict=True):
            _curves(axes, record, sweep, found[sweep])
        for axes in grid[:, 0]:
            axes.set_ylabel("time per call [ms]", fontsize=13)


def _curves(axes: Any, record: Record, sweep: str, sides: Any) -> None:
    preset, _, quantity = sweep.rpartition(" ")
    ends = []
    for name, points in sides.items():
        fit = record.slopes[sweep].get(name)
        x, y = zip(*((size, 1e3 * seconds) for size, seconds in points), strict=True)
        axes.plot(x, y, marker="o", ms=4, color=_colour(name))
        label = f"{name}: {fit['slope']:.2f}" if fit else name
        ends.append(End(label, x[-1], y[-1], for_text(_colour(name))))
    sizes = sorted({size for points in sides.values() for size, _ in points})
    axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.2)
    plain_log(axes.xaxis, most=4)
    axes.set_yscale("log")  # sets the limits too
    plain_log(axes.yaxis, most=4)
    axes.set_title(preset, loc="left", fontsize=13)
    axes.set_xlabel(_QUANTITIES.get(quantity, quantity), fontsize=13)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.25, lw=0.6)
    label_ends(axes, ends, 12)


def _colour(side: str) -> str:
    """The colour of a side's plan; compiled sides have the same colour."""
    name = re.sub(r" (compiled|channels_last|folded)", "", side)
    return METHODS[name].colour if name in METHODS else PLANS.get(name, PLANS["deployed"])
