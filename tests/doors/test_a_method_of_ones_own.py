"""A method that samples nothing goes through every verb: a class and a row are all it takes."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import autosample
import autosample.models
from autosample.artifact import compact_state
from autosample.errors import ArtifactError, SpecError
from autosample.nn import compressed_layers
from autosample.sampling import RULES

INPUTS = {"mlp784": (1, 28, 28), "m5": (1, 8000), "test_resnet": (3, 64, 64)}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10).eval(), torch.randn(2, *INPUTS[name])


@pytest.fixture(params=list(INPUTS))
def net(request, low_rank):
    return made(request.param)


def test_it_meets_a_budget_of_bytes(net):
    model, _ = net
    asked = autosample.report(model).stored_bytes // 2
    report = autosample.convert_(model, "lowrank", bytes=asked)
    assert 0.9 * asked < report.stored_bytes == report.budget.reached <= asked


def test_it_is_the_method_of_one_kind_of_layers(low_rank):
    model = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(128, 64))
    report = autosample.convert_(model, "random", ratio=4, by_kind={"linear": {"rule": "lowrank"}})
    conv, linear = model[0], model[2]
    assert isinstance(linear, low_rank)
    assert not isinstance(conv, low_rank)
    assert linear.left.shape[1] == 128 * 64 // 4 // (128 + 64)
    assert [row.kind for row in report.converted] == ["SummaryConv2d", "LowRankLinear"]


def test_it_is_converted_reported_and_trained(net):
    model, x = net
    report = autosample.convert_(model, "lowrank", ratio=4)
    layers = compressed_layers(model)
    assert len(report.converted) == len(layers) > 0
    assert {row.method for row in report.converted} == {"lowrank"}
    for row in report.converted:
        layer = layers[row.name]
        assert layer.weight.shape == layer.shape
        numbers = layer.left.numel() + layer.right.numel()
        assert row.ratio == pytest.approx(layer.weight.numel() / numbers)
        assert row.ratio >= 4 or layer.left.shape[1] == 1
        assert row.stored_bytes == 4 * (numbers + (0 if layer.bias is None else layer.bias.numel()))
    assert report.stored_bytes == sum(t.nbytes for t in compact_state(model).values())
    model(x).square().sum().backward()
    assert all(layer.left.grad is not None and layer.right.grad is not None for layer in layers.values())


def test_it_starts_from_trained_weights_as_the_singular_values_say(net):
    model, _ = net
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = autosample.convert_(model, "lowrank", ratio=4, warm_start=True)
    for row in report.converted:
        weight = dense[f"{row.name}.weight"].flatten(1)
        rank = compressed_layers(model)[row.name].left.shape[1]
        values = torch.linalg.svdvals(weight).square()
        assert row.fit_error == pytest.approx(float((values[rank:].sum() / values.sum()).sqrt()), abs=1e-4)


def test_it_is_hardened_saved_loaded_and_copied(net, tmp_path):
    model, x = net
    autosample.convert_(model, "lowrank", ratio=4)
    autosample.harden_(model)
    expected = model(x)
    autosample.save(model, tmp_path)
    loaded = autosample.load(tmp_path)
    assert torch.equal(loaded(x), expected)
    assert [type(m) for m in loaded.modules()] == [type(m) for m in model.modules()]
    assert autosample.report(loaded).to_dict() == autosample.report(model).to_dict()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)


def test_it_is_quantised_and_the_file_is_as_small_as_the_report_says(net, tmp_path):
    model, x = net
    autosample.convert_(model, "lowrank", ratio=4)
    before = compressed_layers(model)
    numbers = sum(layer.left.numel() + layer.right.numel() for layer in before.values())
    done = autosample.quantize_(model, 8, method="linear")
    assert done.before - done.after == 3 * numbers - 2 * 8 * len(before)  # a byte each, and a range of two numbers
    expected = model(x)
    assert not any(layer.left.unique().numel() > 256 for layer in before.values())
    saved = autosample.save(model, tmp_path)
    assert saved.stored_bytes == autosample.report(model).stored_bytes
    assert torch.equal(autosample.load(tmp_path)(x), expected)


def test_it_is_deployed(net):
    model, x = net
    autosample.convert_(model, "lowrank", ratio=4)
    fast = autosample.deploy(model, x)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert not compressed_layers(fast)
    assert {row.plan.kind for row in fast.deployment.rows if row.name in compressed_layers(model)} == {"dense"}


@pytest.mark.parametrize(
    "name", [pytest.param("m5", marks=pytest.mark.slow), "mlp784", pytest.param("test_resnet", marks=pytest.mark.slow)]
)
def test_it_is_exported_compactly(name, low_rank, tmp_path):
    model, x = made(name)
    autosample.convert_(model, "lowrank", ratio=4)
    if x.dim() == 3:  # signals: at few bits too
        autosample.quantize_(model, 4)
    stored = autosample.report(model).stored_bytes
    write = autosample.export_pt2 if x.dim() == 3 else autosample.export_onnx
    done = write(model, tmp_path / "model", x)
    assert done.error < 1e-4
    assert done.bytes < 1.15 * stored + 40_000


def test_it_becomes_dense_again_in_place(low_rank):
    layer = nn.Conv2d(8, 16, 3)
    autosample.convert_(layer, "lowrank", ratio=4)
    x = torch.randn(2, 8, 9, 9)
    expected = layer(x)
    assert layer.to_dense_() is layer
    assert type(layer) is nn.Conv2d
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert torch.equal(layer(x), expected)


def test_its_options_are_checked(low_rank):
    with pytest.raises(SpecError, match='rule lowrank has no option "lest": did you mean "least"'):
        autosample.spec("lowrank", ratio=4, options={"lest": 3})


def test_a_process_without_the_method_says_what_is_missing(net, tmp_path, monkeypatch):
    model, _ = net
    autosample.convert_(model, "lowrank", ratio=4)
    autosample.save(model, tmp_path)
    monkeypatch.delitem(RULES, "lowrank")
    with pytest.raises(ArtifactError, match="needs the method 'lowrank', which this process does not have"):
        autosample.load(tmp_path)


@pytest.mark.slow
def test_another_process_loads_it_once_the_module_is_imported(low_rank, tmp_path):
    for name in INPUTS:
        model, x = made(name)
        autosample.convert_(model, "lowrank", ratio=4)
        autosample.save(model, tmp_path / name / "saved")
        torch.save({"x": x, "y": model(x)}, tmp_path / name / "expected.pt")
    code = (
        "import sys, torch, autosample, autosample.models; from autosample.sampling import RULES; import low_rank\n"
        "RULES['lowrank'] = low_rank.LowRank\n"
        "for name in sys.argv[1:]:\n"
        "    known = torch.load(f'{name}/expected.pt', weights_only=True)\n"
        "    model = autosample.load(f'{name}/saved')\n"
        "    assert torch.equal(model(known['x']), known['y'])"
    )
    paths = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(autosample.__file__).parents[1]}"}
    subprocess.run([sys.executable, "-c", code, *INPUTS], check=True, cwd=tmp_path, env={**os.environ, **paths})
