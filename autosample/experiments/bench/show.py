"""A record for people: a table, and a picture."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from autosample.experiments.bench.growth import curves
from autosample.experiments.bench.record import Record, Row
from autosample.system.files import whole
from autosample.system.tables import make_table

_ASKED = {"aim": "yes, aim", "target": "yes", "missed": "NO", "error": "ERROR", "": ""}
_STYLE = {"aim": "green", "target": "green", "missed": "red", "error": "bold red", "": ""}
_LINES = {"dense": "#555555", "reuse": "#1f77b4", "fused": "#d62728", "deployed": "#2ca02c"}


def print_record(record: Record, console: Console) -> None:
    """The table of a record, with what was missed and what was left out below it."""
    console.print(_table(record))
    if record.slopes:
        console.print(_slopes(record))
    missed = [row for row in record.rows if row.verdict == "missed"]
    for row in missed:
        wanted = row.workload.target(row.threads)
        got = f"{row.ratios[row.best].median:.2f}x with {row.best}"
        console.print(Text(f"target missed: {row.workload.name}: {got}, {wanted:g}x is asked", style="red"))
    for row in record.rows:
        for said in ([f"ERROR: {row.error}"] if row.error else []) + list(row.notes):
            console.print(Text(f"{row.workload.name}: {said}"), style="dim")


def _table(record: Record) -> RenderableType:
    names = list(dict.fromkeys(n for row in record.rows for n in row.sides if not n.startswith("dense")))
    heads = ("workload", "fastest dense", "[ms]", *(f"{n} [ms]" for n in names))
    heads += ("best ratio", "quartiles", "peak [MB]", "target", "aim", "met")
    cells, styles = [_cells(row, names) for row in record.rows], [_STYLE[row.verdict] for row in record.rows]
    return make_table(heads, cells, left=("workload", "fastest dense"), styles=styles, title=_title(record))


def _title(record: Record) -> str:
    threads = record.about["threads"]
    return f"{record.suite}, {threads} thread{'s' if threads > 1 else ''}, {record.about['dtype']}"


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    base = row.sides.get(row.baseline)
    cells = [row.workload.name, row.baseline.removeprefix("dense").strip() or ("eager" if base else "")]
    cells.append(milliseconds(base.median) if base else "")
    cells += [milliseconds(row.sides[n].median) if n in row.sides else "" for n in names]
    ratio = row.ratios.get(row.best)
    cells += [f"{ratio.median:.2f}x {row.best}", f"{ratio.low:.2f}-{ratio.high:.2f}"] if ratio else ["", ""]
    target, aim = row.workload.target(row.threads), row.workload.aim
    asked = [f"{number:g}x" if number is not None else "" for number in (target, aim)]
    return [*cells, peaks(row), *asked, _ASKED[row.verdict]]


def milliseconds(seconds: float) -> str:
    """Three digits that count."""
    ms = 1e3 * seconds
    return f"{ms:.{2 if ms < 10 else 1 if ms < 100 else 0}f}"


def peaks(row: Row) -> str:
    """Peak memory of the fastest dense side and of the best other one [MB]; empty where it was not measured."""
    both = [row.sides[n].peak for n in (row.baseline, row.best) if n in row.sides]
    return " → ".join(f"{p / 1e6:.1f}" for p in both if p is not None) if len(both) == 2 else ""


def _slopes(record: Record) -> RenderableType:
    names = list(dict.fromkeys(name for fits in record.slopes.values() for name in fits))
    rows = [
        [sweep, *(f"{fits[n]['slope']:.2f} ({fits[n]['r2']:.2f})" if n in fits else "" for n in names)]
        for sweep, fits in record.slopes.items()
    ]
    return make_table(("sweep", *names), rows, left=("sweep",), title="time grows as size to the power of (R²)")


def plot(record: Record, path: Path) -> None:
    """Growth as curves, anything else as bars; a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = (_growth if record.slopes else _bars)(plt, record)
    if figure is None:
        return
    with whole(path) as partial:
        figure.savefig(partial, dpi=130)
    plt.close(figure)


def _bars(plt, record: Record):
    """A bar for the best ratio of each row, with its quartiles, target and aim; nothing if no row has a ratio."""
    rows = [row for row in record.rows if row.best]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(7.2, 1.2 + 0.36 * len(rows)), layout="constrained")
    best = [row.ratios[row.best] for row in rows]
    spread = [[r.median - r.low for r in best], [r.high - r.median for r in best]]
    places = list(range(len(rows)))
    axes.barh(places, [r.median for r in best], xerr=spread, color="#d62728", alpha=0.8, height=0.6, capsize=3)
    for label, marker, size, values in (
        ("target", "|", 80, [row.workload.target(row.threads) for row in rows]),
        ("aim", "D", 25, [row.workload.aim for row in rows]),
    ):
        points = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, s=size, color="black", label=label, zorder=3)
    axes.axvline(1, color="#555555", linewidth=1)
    axes.set_yticks(places, [f"{row.workload.name} ({row.best})" for row in rows], fontsize="small")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("times as fast as the fastest dense torch")
    axes.set_title(_title(record), fontsize="medium")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    return figure


def _growth(plt, record: Record):
    """Time over size, a panel for each sweep; slopes in the legends."""
    found = curves(record.rows)
    across = 3 if len(found) % 3 == 0 else len(found)
    down = len(found) // across
    figure, grid = plt.subplots(down, across, figsize=(4 * across, 3.2 * down), layout="constrained", squeeze=False)
    for axes, (sweep, sides) in zip(grid.flat, found.items(), strict=True):
        for name, points in sides.items():
            fit = record.slopes[sweep].get(name)
            label = f"{name}: {fit['slope']:.2f}" if fit else name
            x, y = zip(*points, strict=True)
            axes.plot(x, [1e3 * t for t in y], marker="o", markersize=3, color=_LINES.get(name), label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(sweep, fontsize="small")
        axes.set_ylabel("time of a call [ms]", fontsize="small")
        axes.legend(title="slope", fontsize="x-small", title_fontsize="x-small")
    figure.suptitle(f"time against size: {_title(record)}", fontsize="medium")
    return figure
