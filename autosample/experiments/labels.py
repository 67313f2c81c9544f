"""Labels beside the right ends of lines. They are pushed apart and cover no other label, point or line."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

# distance between a point and its label, and between a point and a label that has moved away from it [points]
_NEAR, _FAR = 8.0, 24.0
# if a column covers lines, its labels are tried this many label heights higher or lower
_SHIFTS = (0, 1, -1, 2, -2, 3, -3)


class End(NamedTuple):
    """The right end of a line, and its label."""

    label: str
    x: float
    y: float
    colour: str


class _Item(NamedTuple):
    """An end in pixels, with the size of its label."""

    end: End
    x: float
    y: float
    wide: float
    high: float


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
        """Whether the straight line from `a` to `b` passes through the rectangle (Liang and Barsky 1984)."""
        enter, leave = 0.0, 1.0
        for start, end, low, high in ((a[0], b[0], self.left, self.right), (a[1], b[1], self.low, self.high)):
            if start == end:
                if not low < start < high:
                    return False
                continue
            ways = sorted(((low - start) / (end - start), (high - start) / (end - start)))
            enter, leave = max(enter, ways[0]), min(leave, ways[1])
        return enter < leave


def widest(figure: Any, labels: Iterable[str], size: float) -> float:
    """Width of the widest label with the gap before it [pixels], at a font size [points]."""
    renderer, found = figure.canvas.get_renderer(), 0.0
    for label in labels:
        text = figure.text(0, 0, label, fontsize=size)
        found = max(found, text.get_window_extent(renderer).width)
        text.remove()
    return found + (_FAR + 6) * figure.dpi / 72


def label_ends(axes: Any, ends: Sequence[End], size: float) -> list[Box]:
    """Write a label beside the right end of each line. Returns the boxes of the labels.

    Labels stand in columns, in the order of their ends. If a column would cover points or lines, its labels move to
    the next column on the right. A label that is not at the height of its end gets a thin line to it.

    Args:
        axes: Axes with final limits and a final place in the figure; the last column may be to the right of them.
        ends: Right ends of the lines.
        size: Font size [points].
    """
    pixel = axes.figure.dpi / 72
    frame = axes.get_window_extent(axes.figure.canvas.get_renderer())
    busy, lines = _occupied(axes, pixel)
    columns = _columns([_measured(axes, end, size) for end in ends], _FAR * pixel)
    boxes: list[Box] = []
    for number, column in enumerate(columns):
        tries = [_laid(column, pixel, (frame.y0, frame.y1), shift) for shift in _SHIFTS]
        free = [laid for laid in tries if not any(_covers(box, busy, lines) for box in laid)]
        if not free and number + 1 < len(columns):
            columns[number + 1] += column
            continue
        laid = (free or tries)[0]
        boxes += laid
        for item, box in zip(_ordered(column), laid, strict=True):
            _write(axes, item, box, size, pixel)
    return boxes


def _measured(axes: Any, end: End, size: float) -> _Item:
    x, y = axes.transData.transform((end.x, end.y))
    text = axes.text(end.x, end.y, end.label, fontsize=size)
    extent = text.get_window_extent(axes.figure.canvas.get_renderer())
    text.remove()
    return _Item(end, x, y, extent.width, extent.height)


def _occupied(axes: Any, pixel: float) -> tuple[list[Box], list[list[tuple[float, float]]]]:
    """Boxes around all points of a picture, and its lines [pixels]."""
    half = 3.5 * pixel
    lines = [[tuple(p) for p in line.get_transform().transform(line.get_xydata())] for line in axes.lines]
    spots = [tuple(axes.transData.transform(p)) for group in axes.collections for p in group.get_offsets()]
    spots += [point for line in lines for point in line]
    return [Box(x - half, y - half, x + half, y + half) for x, y in spots], lines


def _columns(items: Sequence[_Item], gap: float) -> list[list[_Item]]:
    """Groups of ends, from left to right: the labels of one group end before the next group begins."""
    found: list[list[_Item]] = []
    for item in sorted(items, key=lambda item: item.x):
        last = found[-1] if found else []
        right = max((other.x for other in last), default=-math.inf) + gap + max((i.wide for i in last), default=0)
        if item.x > right:
            found.append([item])
        else:
            last.append(item)
    return found


def _ordered(column: Sequence[_Item]) -> list[_Item]:
    return sorted(column, key=lambda item: (item.y, item.x))


def _laid(column: Sequence[_Item], pixel: float, bounds: tuple[float, float], shift: int) -> list[Box]:
    """Boxes of a column's labels, from the lowest to the highest."""
    items, high = _ordered(column), max(item.high for item in column)
    middles = spread([item.y + shift * high for item in items], high, (bounds[0] + high / 2, bounds[1] - high / 2))
    moved = any(abs(middle - item.y) > high / 2 for middle, item in zip(middles, items, strict=True))
    left = max(item.x for item in items) + (_FAR if moved else _NEAR) * pixel
    return [Box(left, m - high / 2, left + i.wide, m + high / 2) for m, i in zip(middles, items, strict=True)]


def spread(wanted: Sequence[float], apart: float, bounds: tuple[float, float]) -> list[float]:
    """Numbers as near as possible to the ascending `wanted`, at least `apart` from each other, in bounds if they fit.

    Least squares by pooling neighbours: isotonic regression of `wanted[i] - i * apart`.
    """
    pools: list[list[float]] = []
    for number, value in enumerate(wanted):
        pools.append([value - number * apart])
        while len(pools) > 1 and sum(pools[-2]) / len(pools[-2]) > sum(pools[-1]) / len(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    level = [sum(pool) / len(pool) for pool in pools for _ in pool]
    low, top = bounds[0], bounds[1] - (len(wanted) - 1) * apart
    return [max(low, min(value, top)) + number * apart for number, value in enumerate(level)]


def _covers(box: Box, busy: Sequence[Box], lines: Sequence[Sequence[tuple[float, float]]]) -> bool:
    return any(box.meets(spot) for spot in busy) or any(box.crossed(a, b) for line in lines for a, b in pairwise(line))


def _write(axes: Any, item: _Item, box: Box, size: float, pixel: float) -> None:
    middle = (box.low + box.high) / 2
    leader = {"arrowstyle": "-", "color": item.end.colour, "lw": 0.8, "shrinkA": 2, "shrinkB": 4, "relpos": (0, 0.5)}
    moved = abs(middle - item.y) > item.high / 4 or box.left - item.x > 1.5 * _NEAR * pixel
    axes.annotate(
        item.end.label,
        (item.end.x, item.end.y),
        ((box.left - item.x) / pixel, (middle - item.y) / pixel),
        textcoords="offset points",
        fontsize=size,
        color=item.end.colour,
        va="center",
        annotation_clip=False,
        arrowprops=leader if moved else None,
    )
