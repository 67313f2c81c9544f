"""A converted model goes on being a torch model."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from nets import Net, image
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from autosample import PRESETS, convert, convert_, harden_, report
from autosample.nn import SummaryConv2d, SummaryLayer, compressed_layers


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
def test_states_load_strictly_between_two_conversions(preset):
    first, second = (convert(Net(), preset, ratio=4, signs="random", seed=seed)[0].eval() for seed in (0, 1))
    x = image()
    assert not torch.equal(first(x), second(x))
    missing, unexpected = second.load_state_dict(first.state_dict(), strict=True)
    assert (missing, unexpected) == ([], [])
    assert torch.equal(first(x), second(x))
    harden_(first)
    harden_(second)
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("hard", [False, True])
def test_deepcopy_and_pickle_of_timm_models_with_their_own_convolutions(hard):
    model = timm.create_model("test_nfnet", num_classes=5)
    convert_(model, "autosample", ratio=4, options={"afford": 10})
    if hard:
        harden_(model)
    kinds = {type(layer).__name__ for layer in compressed_layers(model).values()}
    assert "SummaryScaledStdConv2d" in kinds
    model.eval()
    x = torch.randn(1, 3, 64, 64)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
        assert torch.equal(twin(x), model(x))
        assert report(twin) == report(model)


def test_exponential_moving_average():
    model = convert(Net(), "autosample", ratio=4, options={"afford": 10})[0]
    average = ModelEmaV3(model, decay=0.75)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    average.update(model)
    for name, p in average.module.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] + 0.25)
    assert average.module(image()).isfinite().all()
    harden_(average.module)
    assert average.module(image()).isfinite().all()


def test_averaged_model():
    model = convert(Net(), "autosample", ratio=4, options={"afford": 10})[0]
    average = AveragedModel(model)
    for step in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(float(step))
        average.update_parameters(model)
    assert {p.mean().item() for p in average.parameters()} == {1.0}
    assert average(image()).isfinite().all()


def test_compile_keeps_names():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv1d(8, 16, 5), nn.ReLU(), nn.Conv1d(16, 8, 3))
    convert_(model, "autosample", ratio=4, options={"afford": 10})
    names, x = list(model.state_dict()), torch.randn(2, 8, 20)
    expected = model(x)
    model.compile(backend="aot_eager")
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == names
    assert list(compressed_layers(model)) == ["0", "2"]


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Conv2dSame, {"stride": 2}),
        (StdConv2d, {"padding": 1}),
        (ScaledStdConv2d, {"padding": 1, "gamma": 1.7}),
    ],
)
def test_special_convolutions_keep_their_forward(kind, options, preset):
    dense = kind(8, 16, 3, **options)
    if kind is ScaledStdConv2d:
        nn.init.normal_(dense.gain)
    layer = copy.deepcopy(dense)
    convert_(layer, preset, ratio=4)
    assert isinstance(layer, kind)
    assert type(layer).__name__ == f"Summary{kind.__name__}"
    layer.eval()
    dense.load_state_dict(dense.state_dict() | {"weight": layer.weight.detach()})
    x = torch.randn(2, 8, 11, 11)
    assert torch.equal(layer(x), dense.eval()(x))
    plain = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    assert plain.shape != layer(x).shape or not torch.allclose(plain, layer(x))  # else there was nothing to keep


class ConvNormMask(nn.Conv2d):
    """A convolution with a module, a buffer and an argument of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.norm = nn.BatchNorm2d(self.out_channels)
        self.register_buffer("shift", torch.arange(3.0))

    def forward(self, x, mask=None):
        out = self.norm(super().forward(x)) + self.shift.sum()
        return out if mask is None else out * mask


@pytest.mark.parametrize("preset", ["wsnet", "autosample", "nes"])
def test_subclasses_with_more_than_a_weight(preset):
    dense = ConvNormMask(8, 16, 3).eval()
    layer = copy.deepcopy(dense)
    result = convert_(layer, preset, ratio=4)
    dense.weight.data = layer.weight.detach()
    x, mask = torch.randn(2, 8, 5, 5), torch.rand(3, 3)
    assert torch.equal(layer(x, mask), dense(x, mask))
    assert torch.equal(layer(x, mask=mask), dense(x, mask))
    assert torch.equal(layer(x=x), dense(x))
    assert result.dense_bytes == sum(t.nbytes for t in dense.state_dict().values())


def test_weights_that_are_read_without_calling_their_layer():
    """Attention in torch reads `out_proj.weight` itself, and has a fast path of its own."""
    dense = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    layer = copy.deepcopy(dense)
    convert_(layer, "autosample", ratio=4, options={"afford": 10})
    assert isinstance(layer.out_proj, SummaryLayer)
    dense.out_proj.weight.data = layer.out_proj.weight.detach()
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(layer(x, x, x)[0], dense(x, x, x)[0])
    with torch.no_grad():
        torch.testing.assert_close(layer(x, x, x)[0], dense(x, x, x)[0])
    with torch.no_grad():
        layer.out_proj.offsets.position.add_(0.3)  # the interpolation has a kink at integers
    layer.train()(x, x, x)[0].square().sum().backward()
    assert layer.out_proj.summary.grad.any()
    assert layer.out_proj.offsets.position.grad.any()


def test_transformer_encoders():
    dense = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0).eval()
    layer = copy.deepcopy(dense)
    convert_(layer, "wsnet", ratio=4)
    for name in compressed_layers(layer):
        dense.get_submodule(name).weight.data = layer.get_submodule(name).weight.detach()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), dense(x))


def test_the_type_of_a_twin_is_made_once():
    a, b = (convert(timm.layers.StdConv2d(8, 16, 3), "wsnet", ratio=4)[0] for _ in range(2))
    assert type(a) is type(b)
    assert type(convert(nn.Conv2d(8, 16, 3), "wsnet", ratio=4)[0]) is SummaryConv2d
