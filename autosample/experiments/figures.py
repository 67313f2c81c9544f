"""The pictures of a grid, from its records."""

from collections.abc import Mapping
from pathlib import Path

from autosample.experiments.collect import grouped
from autosample.experiments.grid import Grid
from autosample.experiments.plots import WindowMap, plot_moved, plot_tradeoff, plot_windows
from autosample.experiments.record import Record

_BYTES = "stored bytes, everything counted"
_LATENCY = "latency of the deployed net at batch 1 [ms]"


def draw(grid: Grid, records: Mapping[str, Record], out: Path) -> list[Path]:
    """Draw everything that the records allow; returns the pictures.

    `accuracy.png` against bytes and `latency.png` against measured time, per data set and net; for the first run of
    each rule `windows-RULE.png`, and `moved-RULE.png` where positions are learned.
    """
    drawn = []
    places = list(dict.fromkeys((cell.data.rpartition(".")[2], cell.model) for cell in grid.cells))
    for place in places:
        prefix = f"{'-'.join(place)}-" if len(places) > 1 else ""
        title = grid.title if len(places) == 1 else f"{grid.title}: {place[1]} on {place[0]}"
        drawn += _tradeoffs(grid, records, out, place, prefix, title)
    return drawn + _first_runs(grid, records, out, len(places) > 1)


def _tradeoffs(
    grid: Grid, records: Mapping[str, Record], out: Path, place: tuple[str, str], prefix: str, title: str
) -> list[Path]:
    by_bytes: dict[str, dict[str, list[tuple[float, float]]]] = {}
    by_time: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for (*where, label, size), cells in grouped(grid).items():
        if tuple(where) != place:
            continue
        for record in (records[cell.id] for cell in cells if cell.id in records):
            gain = 100 * record.accuracy
            by_bytes.setdefault(label, {}).setdefault(size, []).append((record.stored_bytes, gain))
            if record.latency:
                by_time.setdefault(label, {}).setdefault(size, []).append((record.latency["median"], gain))
    drawn = []
    for series, name, xlabel in ((by_bytes, "accuracy", _BYTES), (by_time, "latency", _LATENCY)):
        if series:
            drawn.append(out / f"{prefix}{name}.png")
            plot_tradeoff(series, drawn[-1], title, xlabel)
    return drawn


def _first_runs(grid: Grid, records: Mapping[str, Record], out: Path, several: bool) -> list[Path]:
    drawn = []
    sizes = {str(cell.size) for cell in grid.cells if cell.size}
    for (data, model, label, size), cells in grouped(grid).items():
        record = records.get(cells[0].id)
        if record is None:
            continue
        parts = [*([data, model] if several else []), label, *([size] if len(sizes) > 1 and size else [])]
        name = "".join(c if c.isalnum() or c in "-." else "_" for c in "-".join(parts))
        title = f"{label} {size}".strip() if len(sizes) > 1 else label
        if record.windows:
            drawn.append(out / f"windows-{name}.png")
            maps = {layer: WindowMap(**data) for layer, data in record.windows.items()}
            plot_windows(maps, drawn[-1], f"{title}: windows on the summary")
        if record.moved:
            drawn.append(out / f"moved-{name}.png")
            plot_moved(record.moved, drawn[-1], f"{title}: positions against their start")
    return drawn
