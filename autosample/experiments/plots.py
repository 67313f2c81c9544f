"""Pictures: accuracy against what it costs, where windows lie on their summary, and how far positions have moved."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from autosample.nn import SummaryLayer
from autosample.sampling import multiplicity
from autosample.system.files import whole

_COLOURS = {
    "dense": "#555555",
    "narrow": "#999999",
    "wsnet": "#1f77b4",
    "fsnet": "#17becf",
    "dfsnet": "#9467bd",
    "nes": "#2ca02c",
    "random": "#ff7f0e",
    "hashednet": "#8c564b",
    "autosample": "#d62728",
}
_SAME = 1.01
_MOST_BANDS = 4
# What of a window map is drawn, and kept in a record.
_MOST_FILTERS, _MOST_GROUPS, _MOST_BINS = 96, 4, 256


@dataclass(frozen=True)
class WindowMap:
    """Where the windows of a layer lie, as far as a picture shows it.

    Attributes:
        windows, window, length: Windows a filter, rows a window, rows of the summary.
        positions: Of the first filters and groups.
        uses: How often the rows of the summary are used, averaged over equal bins.
    """

    windows: int
    window: int
    length: int
    positions: list[list[int]]
    uses: list[float]

    @classmethod
    def of(cls, layer: SummaryLayer) -> "WindowMap":
        """The map of a layer as it stands."""
        positions, g = layer.offsets().cpu(), layer.geometry
        uses = multiplicity(positions, g.window, g.length).float()
        binned = torch.nn.functional.adaptive_avg_pool1d(uses[None], min(g.length, _MOST_BINS))[0]
        shown = positions[:_MOST_FILTERS, :_MOST_GROUPS].tolist()
        return cls(g.windows, g.window, g.length, shown, [round(u, 2) for u in binned.tolist()])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, gain) that no other one beats, by cost; costs within 1 % count as the same."""

    def beaten(cost: float, gain: float) -> bool:
        as_cheap = [(c, g) for c, g in points.values() if c <= cost * _SAME]
        return any(g > gain or (g == gain and c * _SAME < cost) for c, g in as_cheap)

    ordered = sorted(points.items(), key=lambda item: item[1])
    return [name for name, (cost, gain) in ordered if not beaten(cost, gain)]


def plot_tradeoff(
    series: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path, title: str, xlabel: str
) -> None:
    """Accuracy over a cost: a dot per run, a dash and a line for the means of a rule, and the Pareto front.

    Args:
        series: By rule and size: points (cost, accuracy in percent) of its runs.
        path: Of the picture.
        title, xlabel: What to write.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.8, 4.2), layout="constrained")
    means: dict[str, tuple[float, float]] = {}
    for number, (label, sizes) in enumerate(series.items()):
        colour = _COLOURS.get(label, f"C{number % 10}")
        for points in sizes.values():
            axes.scatter(*zip(*points, strict=True), s=14, alpha=0.45, color=colour)
        centres = {f"{label}\n{s}": tuple(mean(v) for v in zip(*p, strict=True)) for s, p in sizes.items()}
        means |= centres  # pyright: ignore[reportCallIssue,reportArgumentType]
        line = sorted(centres.values())
        told = f"{label}: {', '.join(f'{y:.1f}' for _, y in line)} %"
        axes.plot(*zip(*line, strict=True), color=colour, lw=1, marker="_", ms=14, mew=2, label=told)
    best = [means[name] for name in front(means)]
    if len(best) > 1:
        axes.step(*zip(*best, strict=True), where="post", color="black", lw=0.8, ls=":", label="Pareto front of means")
    axes.scatter(*zip(*best, strict=True), s=70, facecolors="none", edgecolors="black", lw=0.8, zorder=3)
    axes.set_xscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy [%]")
    axes.set_title(title, fontsize="medium")
    axes.legend(title="mean over runs", fontsize="x-small", title_fontsize="x-small")
    _save(figure, path)


def plot_windows(layers: Mapping[str, WindowMap], path: Path, title: str) -> None:
    """Where windows lie: a row per filter, and below it how often each summary row is used."""
    plt = _pyplot()
    figure, axes = plt.subplots(
        2, len(layers), figsize=(4.2 * len(layers), 4.6), layout="constrained", squeeze=False, height_ratios=(3, 1)
    )
    for column, (name, m) in enumerate(layers.items()):
        top, bottom = axes[0, column], axes[1, column]
        for group, left in enumerate(zip(*m.positions, strict=True)):
            rows = range(len(left))
            top.barh(rows, [m.window] * len(left), left=left, height=1.0, alpha=0.45, label=f"group {group}")
        top.set_title(f"{name}: {m.windows} windows of {m.window} a filter", fontsize="small")
        top.set_ylabel("filter" if column == 0 else "")
        top.set_xlim(0, m.length)
        step = m.length / len(m.uses)
        bottom.fill_between([(i + 0.5) * step for i in range(len(m.uses))], m.uses, step="mid")
        bottom.set_xlim(0, m.length)
        bottom.set_xlabel("summary row")
        bottom.set_ylabel("uses" if column == 0 else "")
    figure.suptitle(title, fontsize="medium")
    _save(figure, path)


def plot_moved(layers: Mapping[str, Sequence[Sequence[float]]], path: Path, title: str) -> None:
    """How far positions are from their start: median and upper tenth per layer, over the epochs.

    Args:
        layers: Rows `epoch, share moved, mean, p10, p50, p90, frozen` by layer, distances in rows of the summary.
        path: Of the picture.
        title: What to write.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7.6, 4.0), layout="constrained")
    for number, (name, rows) in enumerate(layers.items()):
        epochs = [0, *(int(row[0]) + 1 for row in rows)]
        low, middle, high = ([0.0, *(row[i] for row in rows)] for i in (3, 4, 5))
        told = f"{name.removeprefix('net.')}: {rows[-1][1]:.0%} moved"
        colour = plt.get_cmap("tab20")(number % 20)
        axes.plot(epochs, middle, marker=".", ms=4, label=told, color=colour)
        axes.plot(epochs, high, lw=0.6, ls="--", color=colour)
        if len(layers) <= _MOST_BANDS:  # more would hide one another
            axes.fill_between(epochs, low, high, alpha=0.12, color=colour)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("distance from the start [rows]")
    axes.set_title(f"{title} (median; dashed: a tenth is farther)", fontsize="medium")
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure, path: Path) -> None:
    with whole(path) as partial:
        figure.savefig(partial, dpi=130)
    _pyplot().close(figure)
