"""Records that version 0.1.0 wrote: grids in the present words find them, and what is gone stays as history."""

import json
import runpy
from pathlib import Path

import pytest

from autosample.experiments.identity import id_of, present
from autosample.experiments.parse import make_grid, read_grid
from autosample.experiments.record import as_record, records_in
from autosample.experiments.store import Queue, Store

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures/records"
# tests/fixtures/records/*.yaml, in the words of today
_NET = {
    "data": {"class": "Digits", "image_size": 16, "batch_size": 128},
    "model": {
        "name": "test_resnet", "num_classes": 10, "in_chans": 1,
        "args": {"channels": [8, 12, 12, 24], "stem_width": 4},
    },
}  # fmt: skip
RULES = _NET | {
    "train": {"epochs": 1, "lr": 4.0e-3, "weight_decay": 0.05},
    "presets": [
        "dense", "narrow", "wsnet", "fsnet",
        {"preset": "random", "label": "random-root", "share": "root"},
        {"preset": "hashednet", "quantize": {"bits": 4, "rest": "fp16"}},
        {"preset": "autosample", "label": "layered",
         "overrides": {"layer4": {"by_kind": {"pointwise": {"rule": "strided"}}}, "layer1.0.conv1": None}},
    ],
    "net_ratios": [8], "seeds": 1, "holdout": 0.2, "test": False, "compare": "wsnet",
}  # fmt: skip
# as the preset was
_DFSNET = {"preset": "dfsnet", "label": "sigmoid", "options": {"unit": "logit", "rate": None, "freeze_at": 0.9}}
LIKE = _NET | {
    "train": {"epochs": 1},
    "presets": ["wsnet", "random", _DFSNET],
    "like": [{"preset": "wsnet", "options": {"spatial": 4, "channel": 4}}],
    "seeds": [1],
}
# grid, cells it has, cells whose records are kept; the rest was never run, or its preset has changed since
PUBLISHED = {
    "ablation/cifar10_5conv_int4": (51, 24), "ablation/cifar10_5conv_int4_16x": (54, 24),
    "ablation/cifar10_mlp": (45, 33), "ablation/deep_kmeans_cifar10": (57, 57),
    "ablation/esc10": (115, 96), "ablation/esc10_int8": (55, 55), "ablation/mnist": (84, 84),
    "ablation/mnist_int8": (21, 9), "ablation/quick": (21, 21), "ablation/resnet18_cifar10_small": (21, 15),
    "ablation/resnet18_cifar10_small_int8": (21, 15), "ablation/spoken_digits": (150, 130),
    "ablation/strassen_cifar10": (42, 42),
    "research/digits_choice": (48, 48), "research/digits_choice_again": (30, 30), "research/digits_float": (64, 64),
    "research/digits_folded_share": (48, 48), "research/digits_folds": (80, 53),
    "research/digits_gains": (32, 32), "research/digits_narrow": (30, 30),
    "research/digits_share": (144, 144),
}  # fmt: skip


@pytest.mark.parametrize(("name", "config"), [("rules", RULES), ("like", LIKE)])
def test_a_folder_of_the_old_version_has_nothing_left_to_run(name, config):
    made = make_grid(config)
    queue = Queue(Store(FIXTURES / name), made.cells)
    assert queue.total == 0
    for cell in made.cells:
        record = queue.records[cell.id]
        assert record.cell == cell.identity
        assert record.accuracy > 0
        for found in record.windows.values():
            assert "offsets" in found


def test_a_record_that_used_what_is_gone_is_history():
    records = {path.name: record for path, record in records_in(FIXTURES / "rules" / "records")}
    gone = [record for record in records.values() if present(record.cell) is None]
    assert [record.cell["changes"]["gains"] for record in gone] == ["filter"]
    assert len(records) == 1 + len(RULES["presets"])


def test_publishing_again_keeps_history():
    publish = runpy.run_path(str(ROOT / "scripts/publish.py"))
    kept = publish["history"](ROOT / "results/research/digits_gains/records.jsonl")
    assert len(kept) == 32
    assert all(json.loads(line)["cell"]["changes"]["gains"] for line in kept)
    assert publish["history"](ROOT / "results/ablation/quick/records.jsonl") == []


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.every(2)
def test_published_records_are_found(name):
    lines = (ROOT / "results" / name / "records.jsonl").read_text().splitlines()
    found = set()
    for line in lines:
        data = json.loads(line)
        del data["name"]
        found.add(id_of(as_record(data).cell))
    held_out = {"holdout": 0.2, "test": False} if data["scored_on"] == "val" else {}
    cells = {cell.id for cell in read_grid(name, **held_out).cells}
    assert (len(cells), len(cells & found)) == PUBLISHED[name]


def test_identities_of_today_are_left_alone(grid):
    for cell in grid(presets=["dense", "narrow", "autosample"], ratios=None, net_ratios=[8]).cells:
        assert present(cell.identity) == cell.identity
        assert present(json.loads(json.dumps(cell.identity))) == cell.identity


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"rule": "random"}, {"preset": "random", "rule": "random"}),
        ({"rule": "random", "grid": 0, "window": 0},
         {"preset": "random", "rule": "random", "grid": "window", "window": "row"}),
        ({"rule": "random", "gains": "none", "radius": 1}, {"preset": "random", "rule": "random"}),
        ({"rule": "categorical", "candidates": 4, "rate": 0.1},
         {"preset": "random", "rule": "categorical", "options": {"candidates": 4, "rate": 0.1}}),
        ({"rule": "separable", "along": "strided", "across": "strided", "spread": 0}, {"preset": "random"}),
        ({"rule": "separable", "along": "strided", "across": "random", "spread": 0.25}, None),
        ({"rule": "gumbel"}, None),
        ({"rule": "interpolated", "kernel": "triangular"}, None),
        ({"rule": "interpolated", "by_kind": {"linear": {"scale_gradient": "sqrt"}}}, None),
        ({"rule": "random", "seed": 0}, {"preset": "random", "rule": "random", "seed": 0}),
    ],
)  # fmt: skip
def test_specs_of_the_old_version(changes, kept):
    old = {
        "data": "Digits",
        "model": "digitnet",
        "preset": "random",
        "changes": changes,
        "size": {"ratio": 8},
        "seed": 0,
    }
    new = present(old)
    assert (new and new["recipe"]["spec"]) == kept
