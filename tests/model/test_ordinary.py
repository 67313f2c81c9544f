"""A converted model is an ordinary module to code that knows nothing of autosample."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from every_spec import SPECS, WITH_WEIGHT
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, prune
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

import autosample
import autosample.models
from autosample.errors import ConversionError
from autosample.nn import compressed_layers

every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def net(spec, **options) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("digitnet", num_classes=10).eval()
    autosample.convert_(model, {**spec, "ratio": 4}, **options)
    return model


X = torch.randn(3, 1, 16, 16)


# --- made on the meta device -----------------------------------------------------------------------------------------


@every_spec
def test_a_model_made_on_the_meta_device_is_as_good_as_another(spec):
    """All that is exact is made again, and all that is learned is reset."""
    with torch.device("meta"):
        model = timm.create_model("digitnet", num_classes=10).eval()
        autosample.convert_(model, {**spec, "ratio": 4})
    model.to_empty(device="cpu")
    for p in model.parameters():
        p.data.fill_(float("nan"))  # memory with anything in it
    for b in model.buffers():
        if b.is_floating_point():
            b.fill_(float("nan"))
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    right = net(spec)
    for name, layer in compressed_layers(model).items():
        if hasattr(layer, "offsets"):
            assert torch.equal(layer.offsets(), compressed_layers(right)[name].offsets())
    assert torch.isfinite(model(X)).all()
    # and it takes the state of any other
    model.load_state_dict(right.state_dict())
    assert torch.equal(model(X), right(X))


@every_spec
def test_casts_and_moves_keep_what_is_exact(spec):
    model, right = net(spec), net(spec)
    for change in (
        nn.Module.half,
        nn.Module.bfloat16,
        nn.Module.double,
        lambda m: m.to(memory_format=torch.channels_last),
    ):
        change(model)
        for name, layer in compressed_layers(model).items():
            if hasattr(layer, "offsets"):
                assert torch.equal(layer.offsets(), compressed_layers(right)[name].offsets())


# --- weights are read, assigned, written -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: nn.Conv1d(8, 16, 5), lambda: nn.Conv2d(8, 16, 3), lambda: nn.Linear(32, 24)])
@pytest.mark.parametrize("spec", ["wsnet", "random", "autosample", "kmeans"])
def test_an_assigned_weight_is_fitted(make, spec):
    layer, dense = make(), make()
    autosample.convert_(layer, spec, ratio=2)
    with pytest.warns(UserWarning, match="relative error of 0") as said:
        layer.weight = dense.weight
    error = float((layer.weight - dense.weight).detach().norm() / dense.weight.detach().norm())
    assert f"relative error of {error:.2f}" in str(said[0].message)
    if spec in ("wsnet", "random"):  # offsets are the same in both: what one holds, the other can hold exactly
        twin = make()
        autosample.convert_(twin, spec, ratio=2)
        twin.weight = nn.Parameter(layer.weight.detach())
        torch.testing.assert_close(twin.weight, layer.weight, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConversionError, match="must have the layer's shape"):
        layer.weight = torch.zeros(3)


WRITES = {
    "copy_": lambda w: w.copy_(torch.zeros_like(w)),
    "data.copy_": lambda w: w.data.copy_(torch.zeros_like(w)),
    "data =": lambda w: setattr(w, "data", torch.zeros_like(w)),
    "init": lambda w: nn.init.kaiming_normal_(w),
    "clamp_": lambda w: w.clamp_(-1, 1),
    "fill": lambda w: w.__setitem__(0, 0.0),
    "mul_": lambda w: w.data.mul_(2),
    "out": lambda w: torch.add(w, 1, out=w),
    "trunc_normal_": lambda w: timm.layers.trunc_normal_(w),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_writing_in_place_is_refused(write):
    layer = nn.Conv2d(8, 16, 3)
    autosample.convert_(layer, "random", ratio=4)
    before = layer.weight.detach().clone()
    with torch.no_grad(), pytest.raises(ConversionError, match=r"assign layer\.weight = w") as error:
        write(layer.weight)
    assert "\n" not in str(error.value)
    assert torch.equal(layer.weight, before)


def test_reading_is_as_of_any_tensor():
    layer = nn.Conv2d(8, 16, 3)
    autosample.convert_(layer, "random", ratio=4)
    w = layer.weight
    assert isinstance(w, torch.Tensor)
    for read in (
        lambda: w + 1,
        lambda: w.detach(),
        lambda: w.mean(),
        lambda: F.relu(w),
        lambda: copy.deepcopy(w.detach()),
    ):
        assert type(read()) is torch.Tensor
    with torch.no_grad():
        assert type(copy.deepcopy(layer.weight)) is torch.Tensor
        assert b"autosample" not in pickle.dumps(layer.weight)
    plain = torch.zeros(16, 8, 3, 3)
    plain.copy_(w.detach())
    assert torch.equal(plain, w)
    w.square().sum().backward()
    assert layer.summary.grad is not None
    w = layer.weight
    w.retain_grad()
    assert w.requires_grad


@pytest.mark.parametrize("strict", [True, False])
def test_a_dense_state_is_refused_and_not_dropped(strict):
    dense = timm.create_model("digitnet", num_classes=10).state_dict()
    model = net({"preset": "random"})
    before = model(X)
    with pytest.raises(RuntimeError, match=r'"stages.0.conv2?.weight" is dense|is dense and this layer is compressed'):
        model.load_state_dict(dense, strict=strict)
    assert before.shape == (3, 10)


# --- dense again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", WITH_WEIGHT.values(), ids=WITH_WEIGHT.keys())
@pytest.mark.parametrize("state", ["converted", "hardened", "quantised", "loaded"])
@pytest.mark.every(3)
def test_densify(spec, state, tmp_path):
    stock = timm.create_model("digitnet", num_classes=10).eval()
    model = net(spec)
    if state != "converted":
        autosample.harden_(model)
    if state == "quantised":
        autosample.quantize_(model, 8)
    if state == "loaded":
        autosample.save(model, tmp_path)
        model = autosample.load(tmp_path)
    expected = model(X)
    dense = autosample.densify(model)
    torch.testing.assert_close(dense(X), expected, rtol=1e-4, atol=1e-5)
    assert compressed_layers(model)
    assert [type(m) for m in dense.modules()] == [type(m) for m in stock.modules()]
    assert {n: t.shape for n, t in dense.state_dict().items()} == {n: t.shape for n, t in stock.state_dict().items()}
    stock.load_state_dict(dense.state_dict())
    torch.testing.assert_close(stock(X), expected, rtol=1e-4, atol=1e-5)
    dense(X).square().sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in dense.parameters())
    autosample.convert_(dense, "random", ratio=4)  # and once more
    assert autosample.densify_(model) is model
    with pytest.raises(ConversionError, match="densify_ needs a converted model"):
        autosample.densify_(model)


# --- tools of torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["wsnet", "random", "dfsnet", "nes"])
def test_fx_sees_leaves(spec):
    model, x = timm.create_model("test_resnet", num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    autosample.convert_(model, spec, ratio=4)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    targets = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert set(compressed_layers(model)) <= targets
    fast = autosample.deploy(autosample.harden_(model), x, measure=False)
    torch.testing.assert_close(torch.fx.symbolic_trace(fast)(x), fast(x))


def test_features_are_extracted():
    model = resnet18(num_classes=10).eval()
    autosample.convert_(model, "wsnet", ratio=8)
    x = torch.randn(1, 3, 64, 64)
    for net_ in (model, autosample.deploy(model, x, measure=False)):
        found = create_feature_extractor(net_, {"layer4.1.conv2": "last", "fc": "scores"})(x)
        torch.testing.assert_close(found["scores"], net_(x))
        assert found["last"].shape == (1, 512, 2, 2)


def test_fusing_a_norm_says_how_far_off_it_is():
    conv, norm = nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16).eval()
    autosample.convert_(conv, "random", ratio=4)
    conv.eval()
    norm.weight.data.uniform_(0.2, 3)
    with pytest.warns(UserWarning, match="relative error"):
        fuse_conv_bn_eval(conv, norm)


def test_pruning_is_refused():
    layer = nn.Conv2d(8, 16, 3)
    autosample.convert_(layer, "random", ratio=4)
    with pytest.raises(ConversionError, match=r"pruning needs a stored weight, .* densify_"):
        prune.l1_unstructured(layer, "weight", amount=0.5)


# --- all or nothing --------------------------------------------------------------------------------------------------


def test_a_conversion_that_fails_changes_nothing(monkeypatch):
    model = timm.create_model("digitnet", num_classes=10).eval()
    kinds, expected = [type(m) for m in model.modules()], model(X)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made, whole = [], autosample.nn.SummaryLayer.make

    def fail_at_the_third(self, *args, **options):
        made.append(self)
        if len(made) == 3:
            raise KeyboardInterrupt
        whole(self, *args, **options)

    monkeypatch.setattr(autosample.nn.SummaryLayer, "make", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        autosample.convert_(model, "random", ratio=2)
    assert len(made) == 3
    assert [type(m) for m in model.modules()] == kinds
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(X), expected)


def test_layers_that_cannot_be_converted_stay_dense_for_a_reason():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].weight = nn.Parameter(torch.zeros(0, 64))
    model[2].weight = nn.Parameter(model[2].weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    report = autosample.convert_(model, "random", ratio=4)
    assert [row.name for row in report.converted] == ["0"]
    notes = {row.name: row.note for row in report.rows}
    assert notes["1"] == "it has no weights"
    assert notes["2"] == "its weight is float8_e4m3fn"


def test_a_warm_start_needs_weights():
    with torch.device("meta"):
        model = timm.create_model("digitnet", num_classes=10)
    with pytest.raises(ConversionError, match=r"warm_start needs weights, got layer .* on the meta device"):
        autosample.convert_(model, "random", ratio=4, warm_start=True)
    assert not compressed_layers(model)
