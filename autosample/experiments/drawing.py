"""What all pictures share: sizes of letters, plain numbers on axes, labels beside lines, and files written whole."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from autosample.system.files import whole

#: Pictures are shown about 800 pixels wide: at 8 inches, 11 points are then 15 pixels high.
WIDTH = 8.0
_LETTERS = {
    "font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11.5, "xtick.labelsize": 10.5, "ytick.labelsize": 10.5,
    "figure.titlesize": 12.5, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
_DPI = 160
_MOST_TICKS = 6
_STEPS = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))


@contextmanager
def drawn(path: Path, down: int = 1, across: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and an array of its axes, written to a PNG at the end of the block.

    Args:
        path: Of the file.
        down, across: How many axes.
        options: Of `matplotlib.pyplot.subplots`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(_LETTERS):
        figure, axes = plt.subplots(down, across, squeeze=False, **options)
        yield figure, axes
        with whole(path) as partial:
            figure.savefig(partial, dpi=_DPI)
        plt.close(figure)


def plain_log(axis: Any) -> None:
    """Make an axis logarithmic, with ticks such as 0.5, 1, 2 instead of powers of ten.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`, with its final limits.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis._set_axes_scale("log")
    low, high = axis.get_view_interval()
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between `low` and `high`, at most six, as many as there can be."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        ticks = [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) <= _MOST_TICKS:
            return ticks
    return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]


class End(NamedTuple):
    """The right end of a line, and what to write beside it."""

    label: str
    x: float
    y: float
    colour: str


class Box(NamedTuple):
    """A rectangle [pixels]."""

    left: float
    low: float
    right: float
    high: float

    def meets(self, other: "Box") -> bool:
        """Whether two rectangles share a point."""
        return self.left < other.right and other.left < self.right and self.low < other.high and other.low < self.high

    def crossed(self, a: tuple[float, float], b: tuple[float, float]) -> bool:
        """Whether the straight line from `a` to `b` passes through (Liang and Barsky 1984)."""
        enter, leave = 0.0, 1.0
        for start, end, low, high in ((a[0], b[0], self.left, self.right), (a[1], b[1], self.low, self.high)):
            if start == end:
                if not low < start < high:
                    return False
                continue
            ways = sorted(((low - start) / (end - start), (high - start) / (end - start)))
            enter, leave = max(enter, ways[0]), min(leave, ways[1])
        return enter < leave


def label_ends(axes: Any, ends: Sequence[End], size: float = 10.5) -> None:
    """Write a label beside the right end of each line, none over another, and over lines or points only if it must.

    Labels that find no room at the height of their end move up or down and get a thin line to it.

    Args:
        axes: With its final limits and its final place in the figure.
        ends: Of the lines.
        size: Of the letters [points].
    """
    figure = axes.figure
    renderer, pixel = figure.canvas.get_renderer(), figure.dpi / 72
    busy, lines = _occupied(axes, pixel)
    frame = axes.get_window_extent(renderer)
    placed: list[Box] = []
    for end in sorted(ends, key=lambda end: -end.y):
        x, y = axes.transData.transform((end.x, end.y))
        text = axes.annotate(end.label, (end.x, end.y), fontsize=size, color=end.colour, va="center")
        extent = text.get_window_extent(renderer)
        text.remove()
        wide, high = extent.width, extent.height
        best = min(
            _spots(x, y, wide, high, pixel, (frame.y0, frame.y1)),
            key=lambda box: _cost(box, y, high, placed, busy, lines),
        )
        placed.append(best)
        middle = (best.low + best.high) / 2
        line = {"arrowstyle": "-", "color": end.colour, "lw": 0.7, "shrinkA": 0, "shrinkB": 3}
        moved = abs(middle - y) > high / 2 or best.left - x > 12 * pixel
        axes.annotate(
            end.label,
            (end.x, end.y),
            ((best.left - x) / pixel, (middle - y) / pixel),
            textcoords="offset points",
            fontsize=size,
            color=end.colour,
            va="center",
            annotation_clip=False,
            arrowprops={**line, "relpos": (0, 0.5)} if moved else None,
        )


def _occupied(axes: Any, pixel: float) -> tuple[list[Box], list[list[tuple[float, float]]]]:
    """Boxes around all points of a picture, and its lines [pixels]."""
    half = 3.5 * pixel
    lines = [[tuple(p) for p in line.get_transform().transform(line.get_xydata())] for line in axes.lines]
    spots = [tuple(axes.transData.transform(p)) for c in axes.collections for p in c.get_offsets()]
    spots += [point for line in lines for point in line]
    return [Box(x - half, y - half, x + half, y + half) for x, y in spots], lines


def _spots(x: float, y: float, wide: float, high: float, pixel: float, bounds: tuple[float, float]) -> Iterator[Box]:
    """Places for a label to the right of a point, the nearest first."""
    reach = int((bounds[1] - bounds[0]) / (high / 2))
    for gap in (7 * pixel, 16 * pixel, 30 * pixel):
        for step in range(-reach, reach + 1):
            low = y - high / 2 + step * high / 2
            if bounds[0] - high / 2 <= low and low + high <= bounds[1] + high:
                yield Box(x + gap, low, x + gap + wide, low + high)


def _cost(
    box: Box, y: float, high: float, placed: list[Box], busy: list[Box], lines: list[list[tuple[float, float]]]
) -> tuple[float, ...]:
    """Labels over labels are worst, then labels over points and lines, then those far from their end."""
    over_lines = sum(box.crossed(a, b) for line in lines for a, b in pairwise(line))
    far = abs((box.low + box.high) / 2 - y) / high
    return sum(box.meets(other) for other in placed), sum(box.meets(spot) for spot in busy) + over_lines, far, box.left
