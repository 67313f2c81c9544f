"""The preset `strassen` through every door: training, saving, deploying, exporting, quantising."""

import copy

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

import autosample
import autosample.models
from autosample.coding.quantizers import LinearQuantizer
from autosample.deployment.deploy import Deployment
from autosample.errors import ArtifactError, ConversionError
from autosample.export import onnx_runner
from autosample.nn import compressed_layers

X = torch.randn(2, 1, 16, 16)
WAYS = {"p=1": {"products": 1}, "p=2": {"products": 0.75, "patch": 2}}
way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS.keys())


def net(options, hard=True) -> nn.Module:
    """A small net after some steps, so norms are not those of a fresh one."""
    torch.manual_seed(0)
    model = timm.create_model("digitnet", num_classes=10)
    autosample.convert_(model, "strassen", options=options)
    for parameter in (p for layer in compressed_layers(model).values() for p in (layer.scale, layer.shift)):
        nn.init.uniform_(parameter, 0.2, 1.5)
    model.train()
    for _ in range(3):
        model(torch.randn(8, 1, 16, 16))
    return (autosample.harden_(model) if hard else model).eval()


def signals(options) -> tuple[nn.Module, torch.Tensor]:
    """Convolutions along a signal of any length, with a norm, ReLU and a pool, and a linear layer."""
    torch.manual_seed(0)
    parts = [nn.Conv1d(4, 16, 9, 2, 4), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 24, 5)]
    model = nn.Sequential(*parts, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 20))
    autosample.convert_(model, "strassen", options=options)
    x = torch.randn(4, 4, 101)
    model.train()(x)
    return autosample.harden_(model).eval(), x


@way
def test_a_file_holds_five_entries_in_a_byte(options, tmp_path):
    learning = net(options, hard=False)
    before = {name: t.clone() for name, t in learning.state_dict().items()}
    expected = autosample.harden_(copy.deepcopy(learning))(X)
    autosample.save(learning, tmp_path)
    assert all(torch.equal(t, before[name]) for name, t in learning.state_dict().items())
    tensors = load_file(tmp_path / "model.safetensors")
    layer = learning.stages[1].conv
    p, r = layer.patches.patch, layer.products
    assert len(tensors["stages.1.conv.gather"]) == -(-r * 32 * (p + 2) ** 2 // 5)
    assert len(tensors["stages.1.conv.spread"]) == -(-r * 64 * p**2 // 5)
    rest = {"stages.1.conv.scale": r} | ({"stages.1.conv.bias": 64} if p == 1 else {"stages.1.conv.shift": r})
    own = {name: t.numel() for name, t in tensors.items() if name.startswith("stages.1.conv") and t.is_floating_point()}
    assert own == rest
    total = sum(t.nbytes for t in tensors.values())
    assert (
        total == autosample.report(learning).stored_bytes == autosample.report(autosample.load(tmp_path)).stored_bytes
    )
    assert torch.equal(autosample.load(tmp_path)(X), expected)


def test_bytes_that_are_no_entries_are_refused(tmp_path):
    from safetensors.torch import save_file

    from autosample.artifact.assembling import assemble
    from autosample.artifact.files import read_folder

    autosample.save(net(WAYS["p=1"]), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["stages.1.conv.gather"][0] = 243
    save_file(tensors, tmp_path / "other.safetensors")
    config, _ = read_folder(tmp_path)
    with pytest.raises(ArtifactError, match="must be below 243 in gather"):
        assemble(config, tensors)


@way
def test_deployed_models_compute_the_same(options):
    model = net(options)
    expected = model(X)
    for measure in (False, True):
        fast = autosample.deploy(model, X, measure=measure)
        torch.testing.assert_close(fast(X), expected, rtol=1e-4, atol=1e-5)
        assert not compressed_layers(fast)
        plans: Deployment = fast.deployment
        kinds = {row.plan.kind for row in plans.rows if row.name != "stages.0.conv"}
        assert kinds == {"products"} if "patch" in options else kinds <= {"dense", "products"}
    one, x = signals(options)
    torch.testing.assert_close(autosample.deploy(one, x, measure=False)(x), one(x), rtol=1e-4, atol=1e-5)


def test_few_products_are_faster_than_the_dense_layer_by_the_count():
    model = nn.Conv2d(64, 64, 3, padding=1)
    autosample.convert_(model, "strassen", options={"products": 0.25})
    autosample.harden_(model.eval())
    x = torch.randn(1, 64, 8, 8)
    fast = autosample.deploy(model, x, measure=False)
    row = fast.deployment.rows[0]
    assert row.plan.kind == "products"
    assert row.plan.saving == pytest.approx(64 * 64 * 9 / (16 * (64 * 9 + 64)))
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_dense_twins():
    model = net(WAYS["p=1"])
    dense = autosample.densify(model)
    torch.testing.assert_close(dense(X), model(X), rtol=1e-4, atol=1e-5)
    assert type(dense.stages[1].conv) is nn.Conv2d
    with pytest.raises(ConversionError, match=r"only layers with patch 1 have a dense weight, got patch"):
        autosample.densify_(net(WAYS["p=2"]))


NETS = {"signal": signals, "image": lambda options: (net(options), X)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "p"), [("signal", "p=2"), *(("image", p) for p in WAYS)])
def test_onnx_files_hold_convolutions_with_packed_entries(name, p, tmp_path):
    onnx = pytest.importorskip("onnx")
    model, x = NETS[name](WAYS[p])
    done = autosample.export_onnx(model, tmp_path / "model.onnx", x)
    assert done.error < 1e-5
    assert set((done.forms or {}).values()) == {"products"}
    (got,) = onnx_runner(done.path)((torch.cat([x, 2 * x]),))
    torch.testing.assert_close(got, model(torch.cat([x, 2 * x])), rtol=1e-3, atol=1e-4)
    graph, layers = onnx.load(done.path).graph, compressed_layers(model)
    stored = {t.name: t for t in graph.initializer}
    assert {stored[f"{layer}.gather"].data_type for layer in layers} == {onnx.TensorProto.UINT8}
    convolutions = sum(isinstance(m, nn.Conv1d | nn.Conv2d) for m in layers.values())
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("ConvTranspose") == (convolutions if p == "p=2" else 0)


@pytest.mark.slow
@way
def test_pt2_files(options, tmp_path):
    model = net(options)
    done = autosample.export_pt2(model, tmp_path / "model.pt2", X)
    assert done.error < 1e-5
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(X), model(X), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@way
def test_int8_arithmetic(options, tmp_path):
    pytest.importorskip("onnxruntime")
    model = net(options)
    done = autosample.export_onnx(model, tmp_path / "model.onnx", X, calibrate=[torch.randn(8, 1, 16, 16)] * 4)
    assert done.fidelity is not None
    assert done.fidelity.error < 0.1


def test_factors_are_quantised_after_the_norm_is_in_them(tmp_path):
    model = net(WAYS["p=1"])
    before = model(X)
    result = autosample.quantize_(model, 8, rest="fp16")
    assert {row.name.rpartition(".")[2] for row in result.rows if row.bits == 8} == {"scale"}
    assert (model(X) - before).norm() < 0.02 * before.norm()
    autosample.save(model, tmp_path)
    assert torch.equal(autosample.load(tmp_path)(X), model(X))


def test_levels_that_were_learned_before_the_norm_is_folded_are_found_again():
    model = net(WAYS["p=1"], hard=False)
    expected = autosample.harden_(copy.deepcopy(model))(X)
    for layer in compressed_layers(model).values():
        layer.quantise_with("scale", LinearQuantizer(8))
        layer.start_levels("scale")
    planned = autosample.report(model).stored_bytes
    autosample.harden_(model)
    assert (model(X) - expected).norm() < 0.02 * expected.norm()
    for layer in compressed_layers(model).values():
        assert layer.quantizer("scale").holds(layer.scale)
    assert planned == autosample.report(model).stored_bytes
