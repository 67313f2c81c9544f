"""Runs of single cells: what a record says is true of the net that was evaluated."""

import pytest
import torch

from autosample import save
from autosample.experiments import run, teacher
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
