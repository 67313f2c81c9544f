"""Sums of gradients over processes, and the calculation for many GPUs, against numbers worked out by hand."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]

TIMES = {"median": 0.2, "low": 0.1, "high": 0.3}
RECORD = {
    "command": "python scripts/measure_allreduce.py", "date": "2026-01-02", "hardware": "a processor", "torch": "0",
    "net": "resnet50", "ratio": 8, "threads": 1, "batch": 8,
    "reductions": [{
        "processes": 2, "gradient_bytes": {"dense": 100_000_000, "folded": 20_000_000},
        "dense": {**TIMES, "median": 0.04}, "folded": {**TIMES, "median": 0.01},
        "faster": {"median": 4.0, "low": 3.5, "high": 4.5},
    }],
    "step": {"dense": TIMES, "folded": TIMES, "faster": {"median": 1.5, "low": 1.4, "high": 1.6}},
    "recipes": [{
        "recipe": "experiment/imagenet_resnet50", "model": "resnet50", "spec": "autosample", "ratio": 8, "batch": 256,
        "epochs": 300, "accumulate": 1, "optimizer": "lamb",
        "nets": {
            "dense": {
                "gradient_bytes": 100_000_000, "macs": 4_000_000_000, "kept_bytes": 160_000_000, "kept_besides": 0,
            },
            "compact": {
                "gradient_bytes": 20_000_000, "macs": 4_000_000_000, "kept_bytes": 160_000_000,
                "kept_besides": 100_000_000,
            },
        },
    }],
}  # fmt: skip


@pytest.fixture
def tables(tables_of):
    return tables_of("scaling")


def test_without_a_record_the_page_says_how_to_make_it(tables):
    told = "No record yet: `python scripts/measure_allreduce.py` makes it."
    assert tables.allreduce_table() == tables.scaling_table() == told


def test_tables_of_a_record(tables, tmp_path):
    (tmp_path / "results/scaling").mkdir(parents=True)
    (tmp_path / "results/scaling/allreduce.json").write_text(json.dumps(RECORD))
    text = tables.allreduce_table()
    assert "| 2 | 100.0 | 20.0 | 40 | 10 | 4.00 (3.50–4.50) | 5.00 |" in text
    assert "1.50 (1.40–1.60) times as fast. `python scripts/measure_allreduce.py`, a processor, torch 0" in text
    rows = [line for line in tables.scaling_table().splitlines() if line.startswith("| resnet50")]
    assert [row.split("|")[2].strip() for row in rows] == ["1", "8", "64"]


def test_the_calculation_is_that_of_the_page(tables):
    (recipe,) = RECORD["recipes"]
    one, eight, many = (tables.prediction(recipe, devices) for devices in (1, 8, 64))
    # 2048 pictures a step, 6 operations for each of 4e9 multiply-adds, 35 % of 312e12 a second
    seconds = 2048 * 6 * 4e9 / (0.35 * 312e12)
    assert one["dense"]["hours"] == pytest.approx(300 * 1_281_167 / 2048 * seconds / 3600)
    assert one["dense"]["sums"] == one["dense"]["traffic"] == 0
    # each of 8 sends 7/4 of the gradients at 300 GB/s; each of 64 sends 63/32 of them at 25 GB/s
    assert eight["dense"]["sums"] == pytest.approx(1e3 * 1.75 * 0.1 / 300)
    assert many["compact"]["sums"] == pytest.approx(1e3 * 63 / 32 * 0.02 / 25)
    assert many["dense"]["traffic"] == pytest.approx(63 / 32 * 0.1 * 1_281_167 / 2048)
    assert many["dense"]["share"] == pytest.approx(63 / 32 * 0.1 / 25 / (63 / 32 * 0.1 / 25 + seconds / 64))
    # parameters, gradients, average and two moments; in bf16 what 256 pictures keep, with 64 GPUs 32 pictures
    assert eight["dense"]["memory"] == one["dense"]["memory"] == pytest.approx(5 * 0.1 + 256 * 0.08)
    assert many["compact"]["memory"] == pytest.approx(5 * 0.02 + 32 * 0.08 + 0.05)


def test_what_a_net_sends_and_keeps(script):
    measure = script("measure_allreduce")
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    assert measure.gradient_bytes(net) == 4 * (3 * 4 + 4 + 144 * 2 + 2)
    # the input of the convolution, and the output of the ReLU, which the linear layer reads too
    kept = [measure.kept_bytes(net, torch.zeros(batch, 3, 6, 6)) for batch in (1, 3)]
    assert kept == [4 * batch * (3 + 4) * 36 for batch in (1, 3)]
    pieces = measure.buckets(60 << 20)
    assert [piece.nbytes >> 20 for piece in pieces] == [25, 25, 10]


@pytest.mark.slow
def test_two_processes_add_up_and_are_timed(script, tmp_path):
    measure = script("measure_allreduce")
    context = measure.start_processes(measure.add_up, (2, [4000, 400], 3, str(tmp_path)), nprocs=2, start_method="fork")
    assert context is None
    found = json.loads((tmp_path / "times.json").read_text())
    assert found["rounds"] == 3
    assert 0 < found["folded"]["median"] < 10
