"""Runs of single cells: what a record says is true of the net that was evaluated."""

import io

import pytest
import torch
from rich.console import Console

from autosample import save
from autosample.experiments import run, teacher
from autosample.experiments.ablate import inline_runner, run_grid
from autosample.experiments.record import records_in
from autosample.experiments.resolve import resolve

SIZES = {"ratios": None, "seeds": 1}


@pytest.mark.parametrize(
    ("preset", "bits"),
    [
        pytest.param("wsnet", 8, marks=pytest.mark.slow),
        ("wsnet", 4),
        pytest.param("random", 4, marks=pytest.mark.slow),
        ("autosample", 4),
        pytest.param("narrow", 8, marks=pytest.mark.slow),
    ],
)
def test_quantised_rules_get_the_same_bytes_in_more_numbers(grid, preset, bits):
    quantize = {"bits": bits, "rest": "fp16"}
    both = [preset, {"preset": preset, "quantize": quantize}]
    plain, coded = grid(**SIZES, presets=both, net_ratios=[16], tolerance=0.03).cells
    assert coded.label == f"{preset} {bits} bits"
    records = [run.run_cell(cell) for cell in (plain, coded)]
    assert [r.ratio for r in records] == pytest.approx([16, 16], rel=0.03)
    if preset != "narrow":
        ratios = [r.settings["ratio"] for r in records]
        # levels and positions keep their size
        assert 0.2 * 32 / bits < ratios[0] / ratios[1] < 1.2 * 32 / bits
        # what positions may cost is reckoned in numbers of so many bits
        assert [r.settings["planned_bits"] for r in records] == [32, bits]
    assert records[1].settings["quantize"]["bits"] == bits


def test_a_quantised_size_like_a_preset_is_what_that_preset_stores(grid):
    quantize = {"bits": 4, "rest": "fp16"}
    like = {"preset": "wsnet", "options": {"spatial": 4}}
    rows = [{"preset": name, "quantize": quantize} for name in ("wsnet", "random")]
    coded = grid(ratios=None, seeds=1, presets=[*rows, "wsnet", "random"], like=[{**like, "quantize": quantize}]).cells
    (plain,) = grid(ratios=None, seeds=1, presets=["wsnet"], like=[like]).cells
    assert [str(cell.size) for cell in (coded[0], plain)] == ["wsnet spatial 4 4 bits", "wsnet spatial 4"]
    own, other, *floats, whole = (run.run_cell(cell) for cell in (*coded, plain))
    assert own.settings["spec_args"]["options"] == like["options"]  # the preset itself
    assert own.stored_bytes < 0.5 * whole.stored_bytes
    for record in (other, *floats):  # floats with fewer numbers
        assert record.stored_bytes == pytest.approx(own.stored_bytes, rel=0.02)
    assert coded[0].id != grid(ratios=None, seeds=1, presets=rows, like=[like]).cells[0].id


def test_the_quantised_net_is_the_one_that_is_evaluated(grid, tmp_path):
    (cell,) = grid(**SIZES, presets=[{"preset": "random", "quantize": {"bits": 2}}], net_ratios=[24]).cells
    data = run.make_data(cell.data, cell.data_args, seed=0, fold=None, holdout=0.0)
    resolved = resolve(cell)
    model, record = run.train(data, {**resolved.recipe.arguments(), "seed": 0}, epochs=1, quantize=resolved.quantize)
    layers = [m for m in model.net.modules() if getattr(m, "quantizers", None) is not None]
    assert layers
    assert all(len(torch.unique(layer.in_use("summary"))) <= 4 for layer in layers)  # 2 bits
    with torch.no_grad():
        hits = [(model.net(x).argmax(1) == y).float() for x, y in data.test_dataloader()]
    assert record.accuracy == pytest.approx(float(torch.cat(hits).mean()), abs=1e-6)
    save(model.net, tmp_path / "net", name="digitnet", arguments={"num_classes": 10, "in_chans": 1})
    file = tmp_path / "net" / "model.safetensors"
    assert record.stored_bytes <= file.stat().st_size <= record.stored_bytes + 8_192  # the file's header


def test_a_grid_tells_how_fast_offsets_move_and_that_they_diverge(grid, tmp_path):
    """The path a step is that of Adam's first steps, which are as long as the rate; above a row, it is told."""
    learned = [
        {"preset": "autosample", "label": f"{rate} rows", "options": {"afford": 10, "rate": rate, "freeze_at": 1.0}}
        for rate in (0.2, 6.0)
    ]
    signs = {"preset": "folded", "options": {"signs": "learned"}}
    small = grid(**SIZES, presets=["random", *learned, signs], net_ratios=[2])
    told = io.StringIO()
    found = run_grid(small, tmp_path, inline_runner(), Console(file=told, width=300))
    fixed, slow, fast, changed = (found[cell.id] for cell in small.cells)
    assert (fixed.speeds, fixed.notices) == ({}, [])
    assert {name: row["unit"] for name, row in slow.speeds.items()} == dict.fromkeys(slow.moved, "rows")
    for record, rate in ((slow, 0.2), (fast, 6.0)):
        speeds = [speed for row in record.speeds.values() for speed in row["speed"]]
        assert all(0.1 * rate < speed < 1.5 * rate for speed in speeds), (rate, speeds)
    assert {row["unit"] for row in changed.speeds.values()} == {"changes"}
    assert not slow.notices
    assert any("learned offsets diverge in epoch 0: they move by" in text for text in fast.notices)
    assert "warning in 1 of 4 runs: learned offsets diverge" in told.getvalue()
    assert fast in [record for _, record in records_in(tmp_path / "records")]


def test_a_record_has_what_the_conversion_warned_of(grid):
    model = {"name": "digitnet", "num_classes": 10, "in_chans": 1, "include": ["re:stages.*", "nothing"]}
    (cell,) = grid(seeds=1, presets=["random"], ratios=[2], model=model).cells
    assert [text for text in run.run_cell(cell).notices if "'nothing' matches no layer" in text]


@pytest.mark.slow
def test_cells_with_a_teacher_start_from_the_same_dense_net(grid, monkeypatch):
    warm = {"epochs": 1, "teacher_epochs": 3, "warm_start": True}
    data = {"class": "Digits", "batch_size": 64}
    taught = [
        {"preset": name, "train": {**warm, "distill": share}} for name, share in (("wsnet", 0.5), ("random", 0.0))
    ]
    cells = grid(**SIZES, presets=taught, net_ratios=[2], data=data).cells
    first, second = (run.run_cell(cell) for cell in cells)
    for record in (first, second):
        assert record.settings["teacher_epochs"] == 3
        assert "checkpoint_path" not in (record.settings.get("model_args") or {})
        assert record.accuracy > 0.8
    # once more, from what is remembered, and from the beginning
    fits = []
    whole = teacher.trainer_for
    monkeypatch.setattr(teacher, "trainer_for", lambda *args, **options: fits.append(args) or whole(*args, **options))
    assert run.run_cell(cells[0]).accuracy == first.accuracy
    assert not fits
    teacher._WEIGHTS.clear()
    assert run.run_cell(cells[0]).accuracy == first.accuracy
    assert fits == [(3,)]
