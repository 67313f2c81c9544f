"""Latencies in grids: one ratio for all seeds and folds, found once."""

import io
import json

import pytest
import torch
from rich.console import Console

from autosample.errors import AutosampleError
from autosample.experiments.ablate import inline_runner, run_grid
from autosample.experiments.attempt import pack_cell, unpack_cell
from autosample.experiments.latencies import settled
from autosample.experiments.record import Record
from autosample.experiments.resolve import resolve
from autosample.experiments.run import run_cell
from autosample.experiments.store import Store
from autosample.model.convert import convert_layers_
from autosample.models import create


def test_cells(grid):
    made = grid(presets=["dense", "random"], ratios=None, latencies=[0.1, 2], seeds=1)
    assert [str(cell.size) for cell in made.cells[1:]] == ["0.1 ms", "2 ms"]
    assert [cell.identity["size"] for cell in made.cells[1:]] == [{"latency": 0.1}, {"latency": 2}]
    assert len({cell.id for cell in made.cells}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latencies": [0]}, r"latencies must be milliseconds above 0, got 0: write latencies: \[2.0\]"),
        ({"latencies": ["2ms"]}, "latencies must be milliseconds above 0, got 2ms"),
        ({"latencies": [True]}, "latencies must be milliseconds above 0, got True"),
        ({"latencies": [float("nan")]}, "latencies must be milliseconds above 0, got nan"),
        (
            {"latencies": [2], "presets": ["narrow"]},
            "narrow has no latency to search for, got latencies",
        ),
        ({"presets": [{"preset": "random", "bytes": 5}]}, 'has no key "bytes"'),
        ({"train": {"bytes": 5}}, 'train has no key "bytes"'),
    ],
)
def test_mistakes(grid, changes, message):
    with pytest.raises(AutosampleError, match=message):
        grid(**{"ratios": None, **changes})


def test_all_seeds_have_the_ratio_that_was_measured_once(grid, clock, tmp_path):
    made = grid(presets=["dense", "random", "wsnet"], ratios=None, latencies=[0.1, 0.03, 5, 1e-6], seeds=3)
    found = settled(made, Store(tmp_path))
    assert [cell.id for cell in found.cells] == [cell.id for cell in made.cells]
    ratios = {}
    for cell in found.cells:
        if cell.size is not None:
            ratios.setdefault((cell.preset, cell.size.value), set()).add(cell.size.ratio)
    assert set(clock) == {(1, 1, 8, 8)}
    count = len(clock)
    for preset in ("random", "wsnet"):
        # the dense net is faster than 5 ms, and nothing takes a nanosecond: these cells fail when they run
        assert ratios[preset, 5] == ratios[preset, 1e-6] == {None}
        for asked in (0.1, 0.03):
            (ratio,) = ratios[preset, asked]
            net = create("digitnet", num_classes=10, in_chans=1)
            recipe = next(c for c in found.cells if (c.preset, c.size and c.size.value) == (preset, asked)).recipe
            convert_layers_(net, recipe.spec, ratio=ratio)
            assert 0.8 * asked < 1e-6 * sum(p.numel() for p in net.parameters()) <= asked
    cell = next(c for c in found.cells if c.size and c.size.ratio)
    assert unpack_cell(json.loads(json.dumps(pack_cell(cell)))).size == cell.size
    assert resolve(cell, (1, 8, 8)).recipe.spec["ratio"] == cell.size.ratio
    assert len(clock) == count


def test_a_record_of_another_seed_tells_the_ratio(grid, record, clock, tmp_path):
    made = grid(presets=["random"], ratios=None, latencies=[0.1], seeds=2)
    Store(tmp_path).keep(made.cells[1], record(made.cells[1], settings={"ratio": 7.5}))
    assert {cell.size.ratio for cell in settled(made, Store(tmp_path)).cells} == {7.5}
    assert clock == []


def test_a_grid_runs_and_goes_on(grid, clock, tmp_path, monkeypatch):
    train = {"epochs": 1}
    made = grid(presets=["random"], ratios=None, latencies=[0.1, 5], seeds=2, train=train)
    runs = []

    def run(cell, *_):
        runs.append(cell)
        made = resolve(cell, (1, 8, 8)).recipe
        return Record({"ratio": made.spec["ratio"]}, 0.5, 1000, 8000, 7, 1.0, "0", cell=cell.identity)

    monkeypatch.setattr("autosample.experiments.run.run_cell", run)
    console = Console(width=200, file=io.StringIO())
    records = run_grid(made, tmp_path, inline_runner(), console)
    assert len({r.settings["ratio"] for r in records.values()}) == 1
    assert len(records) == 2
    failures = [Store(tmp_path).failure(cell) for cell in made.cells if cell.size.value == 5]
    assert all("that the dense model takes here, deployed, got 5 ms" in failure.message for failure in failures)
    # the second time, only the failures run again
    runs.clear()
    assert run_grid(made, tmp_path, inline_runner(), console).keys() == records.keys()
    assert {cell.size.value for cell in runs} == {5}


def test_a_run(grid, clock):
    torch.set_num_threads(1)
    cell = grid(presets=["random"], ratios=None, latencies=[0.1], seeds=1).cells[0]
    made = run_cell(cell)
    assert 1 < made.settings["ratio"] < 5
    assert made.cell["size"] == {"latency": 0.1}
