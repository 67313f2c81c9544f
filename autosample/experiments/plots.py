"""Pictures: accuracy over cost, and how far offsets have moved."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from autosample.experiments.colours import for_text, styles
from autosample.experiments.drawing import WIDTH, drawn, plain_log
from autosample.experiments.labels import End, label_ends, widest

#: Points (cost, accuracy in percent) of all runs, by method and size.
Series = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]

_SAME = 1.01
_LETTERS, _SMALL = 10.5, 9.5
_LONGEST = 75  # letters; longer titles get a smaller font
_LARGE = 14.0  # in a picture of 1.4 times the width
_FRONT = "ringed: no method is both cheaper and more accurate"


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, gain) that no other point beats, by cost. Costs within 1 % count as equal."""

    def beaten(cost: float, gain: float) -> bool:
        as_cheap = [(c, g) for c, g in points.values() if c <= cost * _SAME]
        return any(g > gain or (g == gain and c * _SAME < cost) for c, g in as_cheap)

    ordered = sorted(points.items(), key=lambda item: item[1])
    return [name for name, (cost, gain) in ordered if not beaten(cost, gain)]


def plot_tradeoff(series: Series, path: Path, title: str, cost: str, gain: str) -> None:
    """Draw accuracy over a cost: a dot for each run, and a line through the means of each method.

    Args:
        series: Points to draw.
        path: File to write.
        title: Title above the picture.
        cost, gain: Labels of the axes, with units.
    """
    with drawn(path, figsize=(WIDTH, 5.0)) as (figure, axes):
        figure.subplots_adjust(left=0.11, right=_right(figure, series, _LETTERS), bottom=0.12, top=0.87)
        _headline(figure, title, f"mean of all runs, dots: single runs; {_FRONT}")
        _panel(axes[0, 0], series, cost, gain)


def plot_overview(panels: Mapping[str, Series], path: Path, title: str, gain: str) -> None:
    """Draw accuracy over several costs, side by side.

    Args:
        panels: Points to draw, by the label of the horizontal axis, with units.
        path: File to write.
        title: Title above the picture.
        gain: Label of the vertical axes, with units.
    """
    with drawn(path, across=len(panels), figsize=(1.4 * WIDTH, 5.4), sharey=True) as (figure, axes):
        labels = {label for series in panels.values() for label in series}
        right = _right(figure, labels, _LARGE)
        # the space between panels is a share of their width
        wide = (right - 0.07 - (len(panels) - 1) * (1 - right)) / len(panels)
        figure.subplots_adjust(left=0.07, right=right, bottom=0.12, top=0.86, wspace=(1.02 - right) / wide)
        figure.suptitle(title, x=0.02, ha="left", fontsize=16)
        for number, (cost, series) in enumerate(panels.items()):
            _panel(axes[0, number], series, cost, gain if number == 0 else "", letters=_LARGE, ring=False, ticks=5)


def _panel(
    axes: Any, series: Series, cost: str, gain: str, letters: float = _LETTERS, ring: bool = True, ticks: int = 6
) -> None:
    means: dict[str, tuple[float, float]] = {}
    ends = []
    for label, style in styles(series).items():
        for points in series[label].values():
            axes.scatter(*zip(*points, strict=True), s=12, alpha=0.4, color=style.colour, lw=0)
        centres = {f"{label}\n{size}": _centre(points) for size, points in series[label].items()}
        means |= centres
        line = list(centres.values())
        look = {"color": style.colour, "ls": style.dashes, "marker": style.marker}
        axes.plot(*zip(*line, strict=True), lw=1.6, ms=6, mec="white", mew=0.6, **look)
        ends.append(End(label, *max(line), for_text(style.colour)))
    if ring:
        best = [means[name] for name in front(means)]
        axes.scatter(*zip(*best, strict=True), s=110, facecolors="none", edgecolors="#777777", lw=0.9, zorder=3)
    _widen(axes, [x for x, _ in means.values()])
    plain_log(axes.xaxis, ticks)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_xlabel(cost, fontsize=letters + 1)
    axes.set_ylabel(gain, fontsize=letters + 1)
    axes.tick_params(labelsize=letters)
    label_ends(axes, ends, letters)


def _headline(figure: Any, title: str, below: str) -> None:
    figure.suptitle(title, x=0.02, ha="left", fontsize=min(12.5, 12.5 * _LONGEST / len(title)))
    figure.text(0.02, 0.905, below, fontsize=_SMALL, color="#555555")


def _right(figure: Any, labels: Iterable[str], letters: float) -> float:
    """The right end of the axes that leaves room for labels [share of the figure's width]."""
    return 1 - widest(figure, labels, letters) / figure.bbox.width


def _centre(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return mean(x for x, _ in points), mean(y for _, y in points)


def _widen(axes: Any, costs: Sequence[float]) -> None:
    """Set limits a little wider than the data, also if all costs are equal."""
    room = 1.15 if max(costs) > 1.3 * min(costs) else 2.0
    axes.set_xlim(min(costs) / room, max(costs) * room)


def plot_moved(layers: Mapping[str, Sequence[Sequence[float]]], path: Path, title: str) -> None:
    """Draw how far offsets are from their start: median and 90th percentile of each layer, over the epochs.

    Args:
        layers: Rows `epoch, share moved, mean, p10, p50, p90, frozen` by layer; distances in rows of the summary.
        path: File to write.
        title: Title above the picture.
    """
    labels = {name: f"{name.removeprefix('net.')}: {rows[-1][1]:.0%} moved" for name, rows in layers.items()}
    with drawn(path, figsize=(WIDTH, 5.0)) as (figure, axes):
        figure.subplots_adjust(left=0.1, right=_right(figure, labels.values(), _SMALL), bottom=0.12, top=0.87)
        _headline(figure, title, "line: median; dashed: a tenth of the offsets is farther")
        _moved(axes[0, 0], layers, labels)


def _moved(axes: Any, layers: Mapping[str, Sequence[Sequence[float]]], labels: Mapping[str, str]) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ends, farthest = [], 1.0
    for number, (name, rows) in enumerate(layers.items()):
        colour = to_hex(colormaps["plasma"](0.85 * number / max(len(layers) - 1, 1)))  # by depth
        epochs = [0, *(int(row[0]) + 1 for row in rows)]
        middle, high = ([0.0, *(row[i] for row in rows)] for i in (4, 5))
        axes.plot(epochs, middle, marker=".", ms=6, color=colour, lw=1.6)
        axes.plot(epochs, high, lw=0.8, ls="--", color=colour)
        ends.append(End(labels[name], epochs[-1], middle[-1], for_text(colour)))
        farthest = max(farthest, *high)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 1.2 * farthest)
    ticks = [0.0, 1.0, *(step * 10.0**power for power in range(6) for step in (3, 10))]
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= 1.2 * farthest]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_xlabel("epoch")
    axes.set_ylabel("distance of an offset from its start [rows]")
    label_ends(axes, ends, _SMALL)
