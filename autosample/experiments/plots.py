"""Pictures: accuracy against bytes, and how the windows of a layer lie on its summary."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from autosample.experiments.run import Record
from autosample.nn import SummaryLayer
from autosample.sampling import multiplicity

_COLOURS = {
    "dense": "#555555",
    "wsnet": "#1f77b4",
    "fsnet": "#17becf",
    "random": "#ff7f0e",
    "hashednet": "#8c564b",
    "autosample": "#d62728",
}


def plot_accuracy(records: Sequence[Record], path: Path, title: str) -> None:
    """Accuracy over stored bytes: a dot per run, a line for the mean of each method."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.settings["summary"]].append(record)
    for name, runs in groups.items():
        colour = _COLOURS.get(name)
        x, y = [r.stored_bytes for r in runs], [100 * r.accuracy for r in runs]
        axes.scatter(x, y, s=18, alpha=0.5, color=colour)
        axes.scatter([mean(x)], [mean(y)], marker="_", s=400, color=colour, label=f"{name}: {mean(y):.1f} %")
    axes.set_xscale("log")
    axes.set_xlabel("stored bytes, everything counted")
    axes.set_ylabel("test accuracy [%]")
    axes.set_title(title)
    axes.legend(title="mean over seeds", fontsize="small")
    _save(figure, path)


def plot_windows(layers: dict[str, SummaryLayer], path: Path, title: str) -> None:
    """Where windows lie: a row per filter, and below it how often each summary row is used."""
    plt = _pyplot()
    figure, axes = plt.subplots(
        2, len(layers), figsize=(4.2 * len(layers), 4.6), layout="constrained", squeeze=False, height_ratios=(3, 1)
    )
    for column, (name, layer) in enumerate(layers.items()):
        positions, g = layer.offsets().cpu(), layer.geometry
        top, bottom = axes[0, column], axes[1, column]
        for group in range(min(positions.shape[1], 4)):
            left = positions[:, group].tolist()
            top.barh(
                range(len(left)), [g.window] * len(left), left=left, height=1.0, alpha=0.45, label=f"group {group}"
            )
        top.set_title(f"{name}: {g.windows} windows of {g.window} a filter", fontsize="small")
        top.set_ylabel("filter" if column == 0 else "")
        top.set_xlim(0, g.length)
        bottom.fill_between(range(g.length), multiplicity(positions, g.window, g.length).tolist(), step="mid")
        bottom.set_xlim(0, g.length)
        bottom.set_xlabel("summary row")
        bottom.set_ylabel("uses" if column == 0 else "")
    figure.suptitle(title, fontsize="medium")
    _save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    figure.savefig(partial, dpi=130)
    partial.replace(path)
    _pyplot().close(figure)
