"""A record as a table."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from autosample.experiments.bench.record import Record, Row
from autosample.system.tables import make_table

_ASKED = {"aim": "yes, aim", "target": "yes", "missed": "NO", "error": "ERROR", "": ""}
_STYLE = {"aim": "green", "target": "green", "missed": "red", "error": "bold red", "": ""}


def print_record(record: Record, console: Console) -> None:
    """Print the table of a record, and below it the missed targets, errors and notes."""
    console.print(_table(record))
    if record.slopes:
        console.print(_slopes(record))
    missed = [row for row in record.rows if row.verdict == "missed"]
    for row in missed:
        wanted = row.workload.target(row.threads)
        got = f"{row.ratios[row.best].median:.2f}x with {row.best}"
        console.print(Text(f"target missed: {row.workload.name}: {got}, {wanted:g}x is required", style="red"))
    for row in record.rows:
        for said in ([f"ERROR: {row.error}"] if row.error else []) + list(row.notes):
            console.print(Text(f"{row.workload.name}: {said}"), style="dim")


def _table(record: Record) -> RenderableType:
    names = list(dict.fromkeys(n for row in record.rows for n in row.sides if not n.startswith("dense")))
    heads = ("workload", "fastest dense", "[ms]", *(f"{n} [ms]" for n in names))
    heads += ("best ratio", "quartiles", "peak [MB]", "target", "aim", "met")
    cells, styles = [_cells(row, names) for row in record.rows], [_STYLE[row.verdict] for row in record.rows]
    return make_table(heads, cells, left=("workload", "fastest dense"), styles=styles, title=title_of(record))


def title_of(record: Record) -> str:
    """Title of a table: suite, threads and type."""
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
    """A time in milliseconds, with three significant digits."""
    ms = 1e3 * seconds
    return f"{ms:.{2 if ms < 10 else 1 if ms < 100 else 0}f}"


def peaks(row: Row) -> str:
    """Peak memory of the fastest dense side and of the best other side [MB]; empty if it was not measured."""
    both = [row.sides[n].peak for n in (row.baseline, row.best) if n in row.sides]
    return " → ".join(f"{p / 1e6:.1f}" for p in both if p is not None) if len(both) == 2 else ""


def _slopes(record: Record) -> RenderableType:
    names = list(dict.fromkeys(name for fits in record.slopes.values() for name in fits))
    rows = [
        [sweep, *(f"{fits[n]['slope']:.2f} ({fits[n]['r2']:.2f})" if n in fits else "" for n in names)]
        for sweep, fits in record.slopes.items()
    ]
    return make_table(("sweep", *names), rows, left=("sweep",), title="time grows as size to the power of (R²)")
