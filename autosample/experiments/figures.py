"""The pictures of a grid, from its records."""

from collections.abc import Mapping
from pathlib import Path

from autosample.experiments.collect import grouped
from autosample.experiments.grid import Grid
from autosample.experiments.plots import Series, plot_moved, plot_overview, plot_tradeoff
from autosample.experiments.record import Record
from autosample.experiments.windows import WindowMap, plot_windows

#: Labels of the axes.
SIZE = "stored size [kB]"
TIME = "time of one forward pass [ms]"
ACCURACY = {"test": "test accuracy [%]", "val": "accuracy on held-out data [%]"}
Place = tuple[str, str]


def draw(grid: Grid, records: Mapping[str, Record], out: Path) -> list[Path]:
    """Draw all pictures for which there are records. Returns their paths.

    For each data set and net: `accuracy.png`, over stored size, and `latency.png`, over measured time. For the first
    run of each method: `windows-METHOD.png`, and `moved-METHOD.png` if offsets are learned.
    """
    drawn = []
    places = list(dict.fromkeys((cell.data.rpartition(".")[2], cell.model) for cell in grid.cells))
    for place in places:
        prefix = f"{'-'.join(place)}-" if len(places) > 1 else ""
        title = grid.title if len(places) == 1 else f"{grid.title}: {place[1]} on {place[0]}"
        gain = _accuracy_of(records)
        for name, cost, series in (
            ("accuracy", SIZE, sizes_of(grid, records, place)),
            ("latency", TIME, times_of(grid, records, place)),
        ):
            if series:
                drawn.append(out / f"{prefix}{name}.png")
                plot_tradeoff(series, drawn[-1], title, cost, gain)
    return drawn + _first_runs(grid, records, out, len(places) > 1)


def draw_overview(
    grid: Grid, records: Mapping[str, Record], latency: Mapping[tuple[str, str], float], path: Path
) -> None:
    """Draw accuracy over stored size and over time, side by side: the picture of the README.

    Args:
        grid: Grid with one data set and one net.
        records: Records by the ids of their cells.
        latency: Time of a forward pass [ms], by label and size of a group of cells; some may be missing.
        path: File to write.
    """
    place = grid.cells[0].group[:2]
    by_size = sizes_of(grid, records, place)
    timed = {
        label: {
            size: [(latency[label, size], y) for _, y in points]
            for size, points in sizes.items()
            if (label, size) in latency
        }
        for label, sizes in by_size.items()
    }
    by_time = {label: sizes for label, sizes in timed.items() if sizes}
    plot_overview({SIZE: by_size, TIME: by_time}, path, grid.title, _accuracy_of(records))


def _accuracy_of(records: Mapping[str, Record]) -> str:
    return ACCURACY[next(iter(records.values())).scored_on]


def sizes_of(grid: Grid, records: Mapping[str, Record], place: Place) -> Series:
    """Points (kB, accuracy in percent) of all runs on a data set and net, by label and size."""
    return _points(grid, records, place, lambda record: record.stored_bytes / 1e3)


def times_of(grid: Grid, records: Mapping[str, Record], place: Place) -> Series:
    """Points (ms, accuracy in percent) of the runs whose time was measured, by label and size."""
    return _points(grid, records, place, lambda record: record.latency["median"] if record.latency else None)


def _points(grid: Grid, records: Mapping[str, Record], place: Place, cost) -> Series:
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for (*where, label, size), cells in grouped(grid).items():
        runs = [records[cell.id] for cell in cells if cell.id in records] if tuple(where) == place else []
        for record in runs:
            if (x := cost(record)) is not None:
                found.setdefault(label, {}).setdefault(size, []).append((x, 100 * record.accuracy))
    return found


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
            plot_moved(record.moved, drawn[-1], f"{title}: how far offsets have moved")
    return drawn
