"""Makes the tables and pictures of results/ again, from the records there: `python scripts/republish.py`.

Nothing is trained or measured. Run it after a change to the look of tables or pictures.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autosample.experiments.bench.pictures import plot
from autosample.experiments.bench.record import read
from autosample.experiments.collect import Paired, markdown
from autosample.experiments.figures import ACCURACY, SIZE
from autosample.experiments.plots import plot_tradeoff
from autosample.experiments.record import as_record
from autosample.experiments.windows import WindowMap, plot_windows
from autosample.system.files import write_text

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> None:
    for path in sorted(RESULTS.rglob("results.json")):
        results = json.loads(path.read_text())
        redo_tables(results, path.parent)
        gain = ACCURACY[results["rows"][0]["scored_on"]]
        plot_tradeoff(series(results), path.parent / "accuracy.png", results["title"], SIZE, gain)
        for picture in path.parent.glob("windows-*.png"):
            redo_windows(picture)
    for path in sorted((RESULTS / "speed").glob("*.json")):
        plot(read(path), path.with_suffix(".png"))


def redo_tables(results: Mapping[str, Any], folder: Path) -> None:
    """Write `table.md` from the kept rows and tests."""
    tests = [Paired(**{"method" if k == "rule" else k: v for k, v in test.items()}) for test in results["tests"]]
    write_text(folder / "table.md", markdown(results["title"], results["rows"], tests))


def series(results: Mapping[str, Any]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Points (kB, accuracy in percent) of all runs, by label and size: that of the row nearest in bytes."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in results["rows"]:
        found.setdefault(row["method"], {})[row["size"]] = []
    for run in results["records"]:
        # quickstart records of 0.1.0 have no labels
        rows = [row for row in results["rows"] if row["method"] == run.get("label", run["settings"].get("summary"))]
        nearest = min(rows, key=lambda row: abs(row["stored_bytes"] - run["stored_bytes"]))
        found[nearest["method"]][nearest["size"]].append((run["stored_bytes"] / 1e3, 100 * run["accuracy"]))
    return found


def redo_windows(picture: Path) -> None:
    """Draw the windows of the first run of a method; the picture's name gives the method."""
    label = picture.stem.removeprefix("windows-")
    for line in (picture.parent / "records.jsonl").read_text().splitlines():
        data = json.loads(line)
        if f"-{label}-" in data.pop("name"):
            maps = {name: WindowMap(**found) for name, found in as_record(data).windows.items()}
            plot_windows(maps, picture, f"{label}: windows on the summary")
            return


if __name__ == "__main__":
    main()
