"""Models with weights that torch itself computes from others: weight norm, spectral norm, pruning, lazy layers."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import autosample
from autosample.errors import ConversionError, NothingToConvert
from autosample.export import export_onnx, onnx_runner

X = torch.randn(2, 8, 12, 12)
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")

WRAPS = {
    "weight norm": weight_norm,
    "spectral norm": spectral_norm,
    "pruning": lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5),
    "parametrized weight norm": parametrizations.weight_norm,
    "parametrized spectral norm": parametrizations.spectral_norm,
}


def net(wrap) -> nn.Sequential:
    """A wrapped convolution, which stays dense, and one that can be converted; a step of training was made."""
    torch.manual_seed(0)
    layers = nn.Sequential(wrap(nn.Conv2d(8, 16, 3)), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3))
    layers(X).sum().backward()  # from now on the hooks' weights have a history
    return layers.eval()


@pytest.mark.parametrize("wrap", WRAPS)
def test_conversion(wrap):
    model = net(WRAPS[wrap])
    before = model(X)
    compressed, report = autosample.convert(model, "random", ratio=4)
    assert [row.method for row in report.rows[:2]] == ["dense", "random"]
    assert "computed from other tensors" in report.rows[0].note
    torch.testing.assert_close(model(X), before)
    torch.testing.assert_close(compressed[:3](X), model[:3](X))
    compressed.train()(X).square().sum().backward()
    assert all(p.grad is not None for p in compressed.parameters())


@pytest.mark.parametrize("wrap", WRAPS)
def test_deployment_and_densify(wrap):
    compressed, _ = autosample.convert(net(WRAPS[wrap]), "random", ratio=4)
    compressed.train()(X).sum().backward()
    compressed.eval()
    with torch.no_grad():
        x = compressed[0](X).double()
        norm = compressed[1]
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).double().view(-1, 1, 1)
        x = ((x - norm.running_mean.double().view(-1, 1, 1)) * scale + norm.bias.double().view(-1, 1, 1)).relu()
        expected = nn.functional.conv2d(x, compressed[3].weight.double(), compressed[3].bias.double())
        fast = autosample.deploy(compressed, X)
        torch.testing.assert_close(fast(X).double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(autosample.densify(compressed)(X).double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compressed(X).double(), expected, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in fast.modules())  # nothing is computed again


def test_onnx(tmp_path):
    compressed, _ = autosample.convert(net(weight_norm), "random", ratio=4)
    compressed.train()(X).sum().backward()
    compressed.eval()
    export_onnx(compressed, tmp_path / "x.onnx", X)
    with torch.no_grad():
        got = onnx_runner(tmp_path / "x.onnx")((X,))
        torch.testing.assert_close(torch.as_tensor(got[0]), compressed(X), rtol=1e-4, atol=1e-5)


def test_tensors_with_a_history_in_containers():
    model = nn.Sequential(nn.Conv2d(8, 32, 3))
    model.seen = {"last": [model(X)]}
    compressed, _ = autosample.convert(model, "random", ratio=4)
    assert torch.equal(compressed.seen["last"][0], model.seen["last"][0])
    assert not compressed.seen["last"][0].requires_grad


TIED = nn.Linear(16, 16)


@pytest.mark.parametrize(
    ("model", "reason", "fix"),
    [
        ("weight norm", "computed from other tensors", "make the weights ordinary first"),
        (nn.LazyConv2d(16, 3), "no shape yet", "run the model once first"),
        (nn.Conv2d(16, 16, 3, groups=16), "depthwise", "use the model as it is"),
        (nn.Sequential(TIED, nn.Linear(16, 16)), "is shared", "give each layer its own weight first"),
        (nn.Conv2d(8, 16, 1, bias=False).to(torch.float8_e5m2), "float8_e5m2", "convert the model in float32"),
        (nn.Conv2d(8, 16, 3), "too small", "use a higher ratio"),
    ],
)
def test_a_model_in_which_nothing_can_be_converted(model, reason, fix):
    model = weight_norm(nn.Conv2d(8, 16, 3)) if model == "weight norm" else model
    if isinstance(model, nn.Sequential):
        model[1].weight = TIED.weight
    ratio = 1.001 if reason == "too small" else 4
    with pytest.raises(NothingToConvert, match=f"{reason}.*: {fix}"):
        autosample.convert_(model, "random", ratio=ratio)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"include": ["0", "up"]}, "include pattern 'up' converts no layer .up: only Conv1d.*"),
        ({"include": ["0", nn.ConvTranspose3d]}, "include pattern .*ConvTranspose3d.* converts no layer"),
        ({"overrides": {"up": {"ratio": 2}}}, "overrides pattern 'up' converts no layer .up: only Conv1d"),
        ({"overrides": {"re:d.*": "random"}}, "overrides pattern 're:d.*' converts no layer .depth: depthwise"),
    ],
)
def test_layers_that_were_asked_for_and_stay_dense(options, told):
    model = nn.Sequential(nn.Conv2d(16, 32, 3))
    model.add_module("up", nn.ConvTranspose3d(8, 8, 3))
    model.add_module("depth", nn.Conv2d(16, 16, 3, groups=16))
    with pytest.warns(UserWarning, match=told):
        autosample.convert_(model, "random", ratio=4, **options)


def test_only_a_layer_that_cannot_be_converted_was_asked_for():
    model = nn.Sequential(nn.Conv2d(16, 32, 3), nn.ConvTranspose3d(8, 8, 3))
    with pytest.raises(
        ConversionError, match=r"include=\['1'\] .*\(1: only Conv1d.* can be compressed\): layers are 0, 1"
    ):
        autosample.convert_(model, "random", ratio=4, include=["1"])
