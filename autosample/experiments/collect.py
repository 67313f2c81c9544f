"""From records to tables: means over seeds and folds, and paired tests between methods."""

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from autosample.experiments.grid import Cell, Grid
from autosample.experiments.record import Record
from autosample.system.extras import require
from autosample.system.files import write_json, write_text
from autosample.system.tables import as_markdown

# tests of two methods whose bytes differ by more than this share are marked
_EQUAL_BYTES = 0.01
Group = tuple[str, str, str, str]


def summarise(name: str, runs: Sequence[Record]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds and folds of one method."""
    accuracy = [100 * run.accuracy for run in runs]
    val = [100 * run.val_accuracy for run in runs if run.val_accuracy is not None]
    latency = [run.latency["median"] for run in runs if run.latency]
    return {
        "method": name,
        "accuracy_percent": round(mean(accuracy), 3),
        "std_percent": round(stdev(accuracy), 3) if len(accuracy) > 1 else 0.0,
        "val_percent": round(mean(val), 3) if val else None,
        "stored_bytes": round(mean(run.stored_bytes for run in runs)),
        "position_bits": round(mean(run.position_bits for run in runs)),
        "bits_per_weight": round(mean(run.bits_per_weight for run in runs), 4),
        "ratio": round(mean(run.ratio for run in runs), 3),
        "macs": runs[0].macs,
        "latency_ms": round(mean(latency), 4) if latency else None,
        "seconds": round(mean(run.seconds for run in runs), 2),
        "seeds": len(runs),
    }


def grouped(grid: Grid) -> dict[Group, list[Cell]]:
    """The cells of a grid by data, model, label and size."""
    groups: dict[Group, list[Cell]] = {}
    for cell in grid.cells:
        groups.setdefault(cell.group, []).append(cell)
    return dict(sorted(groups.items(), key=lambda item: _order(grid, item[1][0])))


def _order(grid: Grid, cell: Cell) -> tuple[Any, ...]:
    """Sort key of tables: data and net, then size, then method; dense first."""
    sizes = list(dict.fromkeys(str(c.size) for c in grid.cells))
    return cell.data, cell.model, cell.size is not None, sizes.index(str(cell.size)), grid.labels.index(cell.label)


def rows(grid: Grid, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One row per group that has a record: the group, the result of `summarise`, and the number of wanted runs."""
    found = []
    for (data, model, label, size), cells in grouped(grid).items():
        runs = [records[cell.id] for cell in cells if cell.id in records]
        if runs:
            place = {"data": data, "model": model, "size": size, "wanted": len(cells), "scored_on": runs[0].scored_on}
            found.append({**summarise(label, runs), **place})
    return found


@dataclass(frozen=True)
class Paired:
    """Comparison of two methods on the same seeds and folds.

    Attributes:
        data, model, size: Data, net and size of both.
        method, against: Labels of both methods.
        pairs: Number of seeds and folds that both have.
        wanted: Number of these in the grid. Tests are made only if both methods have all of them.
        difference: Mean of `method − against` over the pairs [percentage points].
        wins: Number of pairs in which `method` is better.
        t_p, wilcoxon_p: Two-sided p-values of the paired t-test and of Wilcoxon's signed-rank test, or `None`.
        bytes_ratio: Mean bytes of `method` divided by those of `against`.
    """

    data: str
    model: str
    size: str
    method: str
    against: str
    pairs: int
    wanted: int
    difference: float
    wins: int
    t_p: float | None
    wilcoxon_p: float | None
    bytes_ratio: float

    @property
    def equal_bytes(self) -> bool:
        """Whether both store the same within 1 %."""
        return abs(self.bytes_ratio - 1) <= _EQUAL_BYTES


def paired_p(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, float | None]:
    """Two-sided p-values of a difference between `a` and `b`: paired t-test, Wilcoxon's signed-rank test.

    `None` if there are fewer than two pairs. If all differences are zero, both are 1.
    """
    require("ablate", "scipy")
    from scipy.stats import ttest_rel, wilcoxon

    if len(a) < 2:
        return None, None
    if all(x == y for x, y in zip(a, b, strict=True)):
        return 1.0, 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few pairs, or differences that are all equal
        t, w = float(ttest_rel(a, b).pvalue), float(wilcoxon(a, b).pvalue)  # pyright: ignore
    return (None if math.isnan(t) else t), (None if math.isnan(w) else w)


def paired_tests(grid: Grid, records: Mapping[str, Record]) -> list[Paired]:
    """Compare each of `grid.compare` with every other method, at each size. Dense nets take part at every size."""
    groups = grouped(grid)
    found = []
    for (data, model, label, size), mine in groups.items():
        if label not in grid.compare:
            continue
        for other in grid.labels:
            theirs = groups.get((data, model, other, size)) or groups.get((data, model, other, ""))
            if other != label and theirs:
                found.append(_pair((data, model, size), mine, theirs, records))
    return [pair for pair in found if pair is not None]


def _pair(
    place: tuple[str, str, str], mine: Sequence[Cell], theirs: Sequence[Cell], records: Mapping[str, Record]
) -> Paired | None:
    others = {cell.repetition: records[cell.id] for cell in theirs if cell.id in records}
    have = [(records[c.id], others[c.repetition]) for c in mine if c.id in records and c.repetition in others]
    if not have:
        return None
    a, b = [100 * x.accuracy for x, _ in have], [100 * y.accuracy for _, y in have]
    t_p, wilcoxon_p = paired_p(a, b) if len(have) == len(mine) else (None, None)
    return Paired(
        *place,
        method=mine[0].label,
        against=theirs[0].label,
        pairs=len(have),
        wanted=len(mine),
        difference=mean(x - y for x, y in zip(a, b, strict=True)),
        wins=sum(x > y for x, y in zip(a, b, strict=True)),
        t_p=t_p,
        wilcoxon_p=wilcoxon_p,
        bytes_ratio=mean(x.stored_bytes for x, _ in have) / mean(y.stored_bytes for _, y in have),
    )


def markdown(title: str, table: Sequence[Mapping[str, Any]], tests: Sequence[Paired]) -> str:
    """A title, the table of results, and a table of tests for each method that was compared."""
    compared = dict.fromkeys(test.method for test in tests)
    parts = [tests_markdown(name, [test for test in tests if test.method == name]) for name in compared]
    return "\n".join([f"{title}\n", table_markdown(table), *parts])


def table_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table of results as Markdown, without empty columns."""
    heads: list[tuple[str, Any]] = []
    if len({(r["data"], r["model"]) for r in table}) > 1:
        heads += [("data", lambda r: r["data"]), ("net", lambda r: r["model"])]
    if any(r["size"] for r in table):
        heads.append(("size", lambda r: r["size"]))
    heads.append(("method", lambda r: f"`{r['method']}`"))
    scores = sorted({r["scored_on"] for r in table})
    left = len(heads)
    heads.append(
        (f"{'/'.join(scores)} accuracy [%]", lambda r: f"{r['accuracy_percent']:.2f} ± {r['std_percent']:.2f}")
    )
    heads.append(("error [%]", lambda r: f"{100 - r['accuracy_percent']:.2f}"))
    if any(r["val_percent"] is not None for r in table) and scores != ["val"]:
        heads.append(("held out [%]", lambda r: "" if r["val_percent"] is None else f"{r['val_percent']:.2f}"))
    heads += [
        ("stored [bytes]", lambda r: f"{r['stored_bytes']:,}"),
        ("offset bits", lambda r: f"{r['position_bits']:,}"),
        ("bits per weight", lambda r: f"{r['bits_per_weight']:.3g}"),
        ("compression", lambda r: f"{r['ratio']:.1f}x"),
        ("MACs", lambda r: f"{r['macs']:,}"),
    ]
    if any(r["latency_ms"] is not None for r in table):
        heads.append(("latency [ms]", lambda r: "" if r["latency_ms"] is None else f"{r['latency_ms']:.3f}"))
    heads.append(("seconds per run", lambda r: f"{r['seconds']:.1f}"))
    heads.append(("runs", lambda r: str(r["seeds"]) if r["seeds"] == r["wanted"] else f"{r['seeds']} of {r['wanted']}"))
    return as_markdown([name for name, _ in heads], [[tell(r) for _, tell in heads] for r in table], left)


def tests_markdown(compare: str, tests: Sequence[Paired]) -> str:
    """Paired tests of one method as Markdown; `compare` is its label."""
    several = len({(t.data, t.model) for t in tests}) > 1
    heads = [*(["data", "net"] if several else []), "size", f"`{compare}` against"]
    left = len(heads)
    heads += ["points", "wins", "p (t-test)", "p (Wilcoxon)", "bytes"]
    cells = []
    for t in tests:
        whole = t.pairs == t.wanted
        p = [("" if v is None else f"{v:.3g}") if whole else "incomplete" for v in (t.t_p, t.wilcoxon_p)]
        size = "equal" if t.equal_bytes else f"{t.bytes_ratio:.3g}x"
        place = [t.data, t.model] if several else []
        cells.append([*place, t.size, f"`{t.against}`", f"{t.difference:+.2f}", f"{t.wins} of {t.pairs}", *p, size])
    return as_markdown(heads, cells, left)


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV: a header, then one line per row."""
    out = io.StringIO()
    if table:
        writer = csv.DictWriter(out, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return out.getvalue()


def write_tables(grid: Grid, records: Mapping[str, Record], out: Path) -> str:
    """Write `table.md`, `table.csv`, `tests.csv` and `results.json` to a folder. Returns the Markdown."""
    table, tests = rows(grid, records), paired_tests(grid, records)
    text = markdown(grid.title, table, tests)
    write_text(out / "table.md", text)
    write_text(out / "table.csv", to_csv(table))
    write_text(out / "tests.csv", to_csv([asdict(test) for test in tests]))
    run = [cell for cell in grid.cells if cell.id in records]
    kept = [vars(records[cell.id]) | {"label": cell.label, "name": cell.name} for cell in run]
    brief = [{k: v for k, v in record.items() if k not in ("moved", "speeds", "windows", "cell")} for record in kept]
    results = {"name": grid.name, "title": grid.title, "rows": table, "tests": [asdict(t) for t in tests]}
    write_json(out / "results.json", {**results, "records": brief})
    return text
