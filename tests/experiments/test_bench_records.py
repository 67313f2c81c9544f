"""What a bench leaves behind: slopes, verdicts, records, tables and pictures."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from autosample.errors import ConfigError
from autosample.experiments.bench.cases import Workload, conv, suite, wsnet
from autosample.experiments.bench.growth import slope, slopes
from autosample.experiments.bench.pictures import plot
from autosample.experiments.bench.record import Measured, Record, Row, read, write
from autosample.experiments.bench.show import milliseconds, peaks, print_record
from autosample.system.timing import Ratio

TINY = Workload(name="tiny", kind="layer", layer=conv(8, 16, 8), input=(8, 64), spec=wsnet(4, 2), targets=(2, 1.5))


# --- growth ----------------------------------------------------------------------------------------------------------


def test_slopes_of_what_grows_by_a_power():
    sizes = [2.0, 8, 32, 128]
    assert slope(sizes, [3 * s**0.75 for s in sizes]) == pytest.approx({"slope": 0.75, "r2": 1.0})
    assert slope(sizes, [5.0] * 4) == pytest.approx({"slope": 0.0, "r2": 1.0})
    noisy = slope(sizes, [s * f for s, f in zip(sizes, (1, 2, 1, 2), strict=True)])
    assert 1 < noisy["slope"] < 1.3
    assert 0.9 < noisy["r2"] < 1


def growing(exponents):
    rows = []
    for at in (64, 16, 32):  # in any order
        work = replace(TINY, name=f"N{at}", sweep="wsnet N", at=at)
        sides = {name: Measured(1e-6 * at**e, 0, 0, 3, 0.0) for name, e in exponents.items()}
        rows.append(Row(work, 1, sides))
    return rows


def test_slopes_by_sweep_and_side(tmp_path, capsys):
    rows = growing({"dense": 1.0, "fused": 0.5})
    rows += [replace(rows[0], error="wrong"), Row(TINY, 1, rows[0].sides)]  # neither takes part
    found = slopes(rows)
    assert list(found) == ["wsnet N"]
    assert {name: fit["slope"] for name, fit in found["wsnet N"].items()} == pytest.approx({"dense": 1, "fused": 0.5})
    record = Record("growth", about(), tuple(rows), found)
    plot(record, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5000
    from rich.console import Console

    print_record(record, Console(width=160))
    assert "0.50 (1.00)" in capsys.readouterr().out


# --- records ---------------------------------------------------------------------------------------------------------


def about():
    return {"command": "autosample bench tiny", "threads": 1, "dtype": "float32"}


def judged(median, **changes):
    sides = {"dense": Measured(3e-3, 2e-3, 4e-3, 9, 0.0, 4_000_000), "dense folded": Measured(2e-3, 1e-3, 3e-3, 9, 0.0)}
    sides["deployed"] = Measured(1e-3, 9e-4, 1.1e-3, 9, 1e-6, 1_500_000)
    best = Ratio(median, median - 0.5, median + 0.5)
    ratios = {"materialize": Ratio(0.9, 0.8, 1), "deployed": best}
    return Row(**{"workload": replace(TINY, aim=3.0), "threads": 1, "sides": sides, "ratios": ratios} | changes)


@pytest.mark.parametrize(("median", "verdict"), [(3.0, "aim"), (2.0, "target"), (1.99, "missed")])
def test_verdicts(median, verdict):
    assert judged(median).verdict == verdict
    assert judged(median).best == "deployed"
    assert replace(judged(median), workload=replace(TINY, targets=())).verdict == ""
    assert replace(judged(median), threads=2).verdict == ("target" if median < 3 else "aim")


def test_records_go_through_json(tmp_path):
    row = judged(2.5, plan=({"layer": "", "kind": "fused", "folded": ["norm"]},), notes=("no compiler",))
    record = Record("tiny", about(), (row, *growing({"dense": 1.0})), slopes(growing({"dense": 1.0})))
    path = tmp_path / "new" / "tiny-1t.json"
    write(record, path)
    assert read(path) == record
    assert [p.name for p in path.parent.iterdir()] == ["tiny-1t.json"]
    plain = json.loads(path.read_text())
    assert (plain["command"], plain["rows"][0]["verdict"]) == ("autosample bench tiny", "target")
    assert plain["rows"][0]["baseline"] == "dense folded"
    for text in ("{", "[]", '{"suite": "x"}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not a record of"):
            read(path)


def test_the_table_says_plainly_what_was_missed(tmp_path, capsys):
    from rich.console import Console

    record = Record("tiny", about(), (judged(2.5), judged(1.5), judged(2.5, error="reuse: outputs differ")))
    print_record(record, Console(width=200))
    out = capsys.readouterr().out
    assert "target missed: tiny: 1.50x with deployed, 2x is required" in out
    assert "tiny: ERROR: reuse: outputs differ" in out
    assert "2.50x deployed" in out
    assert "folded" in out
    plot(record, tmp_path / "tiny.png")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.png"]
    plot(Record("tiny", about(), ()), tmp_path / "empty.png")
    assert not (tmp_path / "empty.png").exists()


def test_the_documents_take_their_tables_from_the_records(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    script = importlib.import_module("doctables.speed")
    monkeypatch.setattr(importlib.import_module("doctables.records"), "ROOT", tmp_path)
    assert "No records yet" in script.reuse_table()
    assert "No records yet" in script.growth_figure()
    assert "No records yet" in script.speed_highlights()
    rows = (judged(2.5), judged(1.5), judged(2.5, error="reuse: outputs differ", ratios={}))
    told = {**about(), "hardware": "a processor", "torch": "2", "date": "2026-01-02"}
    write(Record("layers", told, rows), tmp_path / "results/speed/layers-1t.json")
    good, missed, wrong = script.reuse_table().splitlines()[2:5]
    cells = "`tiny` | 1 | 2 (folded) | 1 (deployed) | 2.50 (2.00–3.00) | 2x | 3x | yes |"
    assert cells in good
    assert "| **no** |" in missed
    assert "reuse: outputs differ" in wrong
    assert "**error**" in wrong


def test_the_highlights_take_their_rows_from_the_records(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    script = importlib.import_module("doctables.speed")
    monkeypatch.setattr(importlib.import_module("doctables.records"), "ROOT", tmp_path)
    names = {"layers": ("a", "b"), "timm": ("c",), "training": ("soundnet8-s8c8-step",)}
    names["models"] = ("soundnet8-s8c8", "resnet18")
    for suite_name, rows in names.items():
        for threads in (1, 2):
            found = [judged(2.5 - i, threads=threads, workload=replace(TINY, name=n)) for i, n in enumerate(rows)]
            told = {**about(), "hardware": "a processor", "torch": "2", "date": "2026-01-02", "threads": threads}
            record = Record(suite_name, told, tuple(found))
            write(record, tmp_path / f"results/speed/{suite_name}-{threads}t.json")
    lines = script.speed_highlights().splitlines()[2:]
    assert lines[0].startswith("| 2 single convolutions")
    assert lines[0].endswith("|  |  | 1.50 to 2.50 | 1.50 to 2.50 |")
    assert lines[1].endswith("| 2 (folded) | 1 (deployed) | 2.50 (2.00–3.00) | 2.50 (2.00–3.00) |")
    assert "| 1.50 (" in lines[2]


def test_numbers_in_tables():
    assert [milliseconds(s) for s in (1.2345e-3, 12.345e-3, 0.12345)] == ["1.23", "12.3", "123"]
    assert peaks(judged(2)) == "1.5"  # the folded side was not measured
    assert peaks(Row(TINY, 1)) == ""


def test_records_of_the_old_version_are_read():
    record = read(Path(__file__).parents[2] / "results/speed/layers-1t.json")
    known = {row.name: row for row in suite("layers")}
    assert all(row.workload == known[row.workload.name] for row in record.rows)
