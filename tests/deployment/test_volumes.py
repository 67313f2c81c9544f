"""Folded layers of three axes, deployed: against torch's convolution with the weight, alone and in a net."""

import pytest
import torch
import torch.nn.functional as F
from deploying import check, error, scramble
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import autosample
from autosample import convert_, deploy
from autosample.nn import SummaryConv3d
from autosample.nn.folding import _modules, layer_folds
from autosample.nn.planning import layer_frame
from autosample.reuse.after import After
from autosample.reuse.folded import FoldedConv

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),  # torch's own
    pytest.mark.filterwarnings("ignore:a ratio"),
]
OPTIONS = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path))


@st.composite
def volumes(draw: st.DrawFn) -> tuple[nn.Module, Tensor, bool]:
    """Layers with blocks of unequal size and convolution groups, and inputs of odd sizes."""
    small = st.integers(1, 3)
    kernel, dilation = (tuple(draw(small) for _ in range(3)) for _ in range(2))
    padding = draw(st.sampled_from([0, 1, (0, 1, 2), "same"]))
    stride = 1 if padding == "same" else tuple(draw(small) for _ in range(3))
    groups = draw(st.sampled_from([1, 1, 2]))
    filters, channels = groups * draw(st.integers(3, 14)), groups * draw(st.integers(2, 14))
    blocks = draw(st.sampled_from([{}, {"blocks": 3}]))
    layer = SummaryConv3d(
        channels, filters, kernel, stride, padding, dilation, groups, spec="folded", options=blocks,
        ratio=draw(st.sampled_from([2, 3, 5, 9])), padding_mode=draw(st.sampled_from(["zeros", "zeros", "circular"])),
    )  # fmt: skip
    size = [d * (k - 1) + 1 + draw(st.integers(2, 5)) for k, d in zip(kernel, dilation, strict=True)]
    return layer, torch.randn(draw(st.sampled_from([1, 2])), channels, *size), draw(st.booleans())


@settings(max_examples=40, **OPTIONS)
@given(volumes())
def test_every_way_is_the_convolution_with_the_weight(case):
    layer, x, relu = case
    folds = layer_folds(layer)
    if folds is None:  # a single channel group
        return
    frame, pad = layer_frame(layer)
    scale, shift = torch.rand(folds.filters, dtype=torch.float64) + 0.5, torch.randn(folds.filters).double()
    weight = layer.weight.detach().double() * scale.view(-1, 1, 1, 1, 1)
    padded = F.pad(x.double(), *(pad or ([n for pair in reversed(frame.padding) for n in pair],)))
    right = F.conv3d(padded, weight, shift, layer.stride, 0, layer.dilation, layer.groups)
    right = F.relu(right) if relu else right
    size = F.conv3d(padded.abs(), weight.abs(), shift.abs(), layer.stride, 0, layer.dilation, layer.groups)
    for dtype, most in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        modules = _modules(layer.to(dtype), folds, frame, pad, After(scale, shift, relu), fuse=True)
        assert set(modules) >= {"folded", "folded last"}
        for module in modules.values():
            with torch.no_grad():
                got, alone = module(x.to(dtype)), module(x[0].to(dtype))  # without a batch, too
            assert got.shape == right.shape
            assert ((got.double() - right).abs() / size.abs().max()).max() < most
            torch.testing.assert_close(alone, got[0])


def test_norm_and_relu_are_folded_in():
    model = nn.Sequential(nn.Conv3d(64, 64, 3, padding=1, bias=False), nn.BatchNorm3d(64), nn.ReLU())
    convert_(model, "folded", ratio=8)
    fast = check(scramble(model), torch.randn(1, 64, 4, 10, 10))
    (row,) = fast.deployment.rows
    assert (row.plan.kind, row.folded) == ("folded", ("norm", "relu"))
    assert isinstance(fast[0], FoldedConv)
    assert [type(m) for m in fast[1:]] == [nn.Identity, nn.Identity]
    assert row.plan.saving > 4


def test_a_pool_of_three_axes_stays():
    model = nn.Sequential(nn.Conv3d(64, 64, 3), nn.ReLU(), nn.MaxPool3d(2))
    convert_(model, "folded", ratio=8)
    fast = check(model, torch.randn(1, 64, 6, 10, 10))
    assert fast.deployment.rows[0].folded == ("relu",)
    assert isinstance(fast[2], nn.MaxPool3d)


def test_a_norm_folds_into_a_dense_layer_of_three_axes():
    model = scramble(nn.Sequential(nn.Conv3d(2, 8, 3), nn.BatchNorm3d(8), nn.ReLU()))
    fast = check(model, torch.randn(1, 2, 6, 6, 6))
    assert fast.deployment.rows[0].folded == ("norm",)


class Block(nn.Module):
    """A residual block of r3d_18."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def r3d() -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv3d(3, 16, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(16), nn.ReLU(inplace=True))
    blocks = (Block(16, 16), Block(16, 48, 2), Block(48, 48))
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(48, 5))
    convert_(model, "folded", ratio=4)
    return scramble(model).eval()


def clip() -> Tensor:
    return torch.randn(1, 3, 5, 24, 24)


def test_a_net_of_volumes():
    model, x = r3d(), clip()
    fast = check(model, x, tolerance=1e-5)
    rows = {row.name: row for row in fast.deployment.rows}
    assert rows["4.conv1.0"].folded == ("norm", "relu")
    assert rows["4.conv2.0"].folded == ("norm",)
    assert {rows[name].plan.kind for name in ("4.conv1.0", "4.conv2.0", "5.conv1.0")} == {"folded"}
    wider = torch.randn(3, 3, 4, 30, 20)
    with torch.no_grad():
        assert error(fast(wider), model.double()(wider.double())) < 1e-5
        assert error(torch.export.export(fast, (x,)).module()(x), fast(x)) < 1e-5


@pytest.mark.slow
def test_a_net_of_volumes_measured():
    model, x = r3d(), clip()
    fast = deploy(model, x)
    with torch.no_grad():
        assert error(fast(x), model.double()(x.double())) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("deployed", [False, True])
def test_volumes_in_files(form, deployed, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    model, x = r3d(), clip()
    model = deploy(model, x, measure=False) if deployed else model
    export = autosample.export_onnx if form == "onnx" else autosample.export_pt2
    done = export(model, tmp_path / f"model.{form}", x)
    assert done.error < 1e-5
    assert {"signed", "direct"} <= set(done.forms.values())
