"""Tables, tests and pictures from records whose numbers are known."""

import csv
import json

import pytest
from scipy.stats import ttest_rel, wilcoxon

from autosample.experiments import figures
from autosample.experiments.collect import paired_p, paired_tests, rows, write_tables
from autosample.experiments.figures import draw
from autosample.experiments.plots import front

ACCURACY = {"dense": (0.95, 0.97, 0.96), "wsnet": (0.80, 0.84, 0.79), "random": (0.90, 0.94, 0.92)}


@pytest.fixture
def table(grid, record):
    """A grid of three seeds, and its records."""
    made = grid(presets=[*ACCURACY], seeds=3, compare="random", title="known numbers")
    records = {}
    for cell in made.cells:
        bytes_ = {"dense": 8000, "wsnet": 1000, "random": 1005}[cell.label]
        bits = 64 * (cell.label == "random")
        more = {"stored_bytes": bytes_, "position_bits": bits, "seconds": 1.0 + cell.seed}
        records[cell.id] = record(cell, ACCURACY[cell.label][cell.seed], **more)
    return made, records


def test_rows_are_means_and_deviations_by_hand(table):
    dense, wsnet, random = rows(*table)
    assert [r["method"] for r in (dense, wsnet, random)] == ["dense", "wsnet", "random"]
    # 80, 84, 79: mean 81, deviations -1, 3, -2, so the variance is 14 / 2
    assert wsnet["accuracy_percent"] == 81.0
    assert wsnet["std_percent"] == pytest.approx(7**0.5, abs=5e-4)
    assert (wsnet["stored_bytes"], wsnet["ratio"], wsnet["bits_per_weight"]) == (1000, 8.0, 4.0)
    assert (random["position_bits"], random["macs"], random["seconds"], random["seeds"]) == (64, 7, 2.0, 3)
    assert random["ratio"] == round(8000 / 1005, 3)


def test_tests_are_those_of_scipy(table):
    dense, wsnet = paired_tests(*table)
    mine, theirs = [90.0, 94.0, 92.0], [80.0, 84.0, 79.0]
    assert (wsnet.method, wsnet.against, wsnet.pairs, wsnet.wins) == ("random", "wsnet", 3, 3)
    assert wsnet.difference == pytest.approx(11.0)
    assert wsnet.t_p == pytest.approx(ttest_rel(mine, theirs).pvalue)
    assert wsnet.wilcoxon_p == pytest.approx(wilcoxon(mine, theirs).pvalue)
    assert wsnet.equal_bytes
    assert dense.bytes_ratio == pytest.approx(1005 / 8000)
    assert not dense.equal_bytes


def test_several_methods_are_compared_with_all_others(grid, record, tmp_path):
    made = grid(presets=["dense", "random", "autosample", "folded"], seeds=3)
    assert made.compare == ("autosample", "folded")
    records = {cell.id: record(cell, 0.9 + 0.01 * cell.seed + 0.02 * (cell.label == "folded")) for cell in made.cells}
    found = {(test.method, test.against): test.difference for test in paired_tests(made, records)}
    assert found[("folded", "autosample")] == pytest.approx(2.0)
    assert len(found) == 6
    title, _, ours, folded = write_tables(made, records, tmp_path).split("\n\n")
    assert "`autosample` against" in ours
    assert "| 8x a layer | `random` | +2.00 | 3 of 3 |" in folded
    assert title == "small"


def test_paired_p_on_given_numbers():
    a, b = [97.0, 96.3, 97.3, 98.7, 95.0, 96.1], [86.3, 97.0, 94.7, 91.0, 90.3, 92.2]
    t, w = paired_p(a, b)
    assert t == pytest.approx(ttest_rel(a, b).pvalue)
    assert w == pytest.approx(wilcoxon(a, b).pvalue)
    assert paired_p([1.0, 2.0], [1.0, 2.0]) == (1.0, 1.0)
    assert paired_p([1.0], [2.0]) == (None, None)
    assert paired_p([2.0, 3.0], [1.0, 2.0])[0] == pytest.approx(0.0)


def test_no_test_where_a_pair_is_missing(table):
    made, records = table
    gone = next(c for c in made.cells if c.label == "wsnet" and c.seed == 1)
    del records[gone.id]
    wsnet = next(t for t in paired_tests(made, records) if t.against == "wsnet")
    assert (wsnet.pairs, wsnet.wanted, wsnet.t_p, wsnet.wilcoxon_p) == (2, 3, None, None)
    assert next(r for r in rows(made, records) if r["method"] == "wsnet")["seeds"] == 2


def test_files(table, tmp_path):
    text = write_tables(*table, tmp_path)
    assert "| 8x a layer | `wsnet` | 81.00 ± 2.65 | 19.00 | 1,000 | 0 | 4 | 8.0x | 7 | 2.0 | 3 |" in text
    assert "| 8x a layer | `wsnet` | +11.00 | 3 of 3 |" in text
    assert (tmp_path / "table.md").read_text().endswith(text)
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["accuracy_percent"] for line in lines] == ["96.0", "81.0", "92.0"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["records"]) == 9
    assert results["tests"][1]["against"] == "wsnet"
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "table.csv", "tests.csv", "results.json"}


def test_figures(table, tmp_path):
    made, records = table
    assert [path.name for path in draw(made, records, tmp_path)] == ["accuracy.png"]
    windows = {"conv": {"windows": 2, "window": 3, "length": 9, "offsets": [[0, 4], [6, 1]], "uses": [1.0] * 9}}
    moved = {"conv": [[0, 0.5, 1.0, 0.0, 1.0, 2.0, 0.0], [1, 0.6, 2.0, 0.0, 2.0, 5.0, 1.0]]}
    for key, found in records.items():
        latency = {"median": 1.0, "low": 0.9, "high": 1.1, "threads": 1}
        full = {**vars(found), "windows": windows, "moved": moved, "latency": latency}
        records[key] = type(found)(**full)
    drawn = {path.name for path in draw(made, records, tmp_path)}
    assert {"accuracy.png", "latency.png", "windows-wsnet.png", "moved-random.png"} <= drawn
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_the_overview_has_a_panel_for_size_and_one_for_time(table, tmp_path, monkeypatch):
    made, records = table
    seen = {}
    monkeypatch.setattr(figures, "plot_overview", lambda panels, *rest: seen.update(panels))
    latency = {
        (label, "" if label == "dense" else "8x a layer"): ms
        for label, ms in zip(ACCURACY, (3.0, 1.0, 2.0), strict=True)
    }
    figures.draw_overview(made, records, latency, tmp_path / "a.png")
    assert list(seen) == ["stored size [kB]", "time of one forward pass [ms]"]
    by_size, by_time = seen.values()
    assert by_size["wsnet"] == {"8x a layer": [(1.0, 80.0), (1.0, 84.0), (1.0, 79.0)]}
    assert by_time["dense"] == {"": [(3.0, 95.0), (3.0, 97.0), (3.0, 96.0)]}
    del latency["wsnet", "8x a layer"]  # not measured yet
    figures.draw_overview(made, records, latency, tmp_path / "b.png")
    assert set(seen["stored size [kB]"]) - set(seen["time of one forward pass [ms]"]) == {"wsnet"}


def test_the_front_is_what_nothing_beats():
    points = {"a": (1.0, 50.0), "b": (2.0, 70.0), "c": (2.0, 60.0), "d": (3.0, 70.0), "e": (4.0, 90.0)}
    assert front(points) == ["a", "b", "e"]
