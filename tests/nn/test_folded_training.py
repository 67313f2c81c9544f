"""How layers with folds compute in training: as products, with channels last, or from the weight; results are equal."""

import pytest
import torch
import torch.nn.functional as F

from autosample.nn import SummaryConv2d, execution
from autosample.nn import running as way_to_run

LAYOUTS = {"contiguous": torch.contiguous_format, "last": torch.channels_last}


def folded(channels, filters, kernel, **options):
    torch.manual_seed(0)
    return SummaryConv2d(channels, filters, kernel, spec="folded", **{"ratio": 4, **options}).double()


def run(layer, x, weight):
    """Output, and gradients of the input and of the summary; from `weight` instead of the layer if it is given."""
    x, layer.summary.grad = x.clone(memory_format=torch.preserve_format).requires_grad_(), None
    y = layer(x)
    if weight:
        y = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    (y * torch.linspace(-1, 1, y.numel()).double().view_as(y)).sum().backward()
    return y, x.grad, layer.summary.grad


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "options"),
    [
        (16, 24, 1, {}),
        (16, 24, 1, {"stride": 2}),
        (10, 13, 1, {"options": {"blocks": 3}, "bias": True}),
        (12, 18, 1, {"groups": 2}),
        (12, 18, 1, {"padding": 1}),
        (16, 24, 3, {"padding": 1}),
        (10, 13, (1, 3), {"bias": False, "stride": (1, 2)}),
    ],
)
def test_the_output_and_gradients_are_those_of_the_weight(channels, filters, kernel, options, layout):
    layer = folded(channels, filters, kernel, **options)
    x = torch.randn(3, channels, 7, 6).double().contiguous(memory_format=LAYOUTS[layout])
    for ours, theirs in zip(run(layer, x, False), run(layer, x, True), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kernel", [1, 3])
def test_outputs_have_the_layout_of_the_input(kernel):
    layer, x = folded(48, 24, kernel), torch.randn(3, 48, 7, 6).double()
    assert layer(x).is_contiguous()
    assert layer(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("channels", "ratio", "from_weight"),
    [(32, 4, True), (32, 16, False), (48, 4, False)],
    ids=["few", "narrow", "many"],
)
def test_small_convolutions_train_from_the_weight_and_run_by_folds(channels, ratio, from_weight, monkeypatch):
    layer, x = folded(channels, 32, 3, padding=1, ratio=ratio), torch.randn(2, channels, 5, 5).double()
    by_folds = []
    forward = way_to_run.folded_forward
    monkeypatch.setattr(way_to_run, "folded_forward", lambda *args: by_folds.append(1) or forward(*args))
    trained = layer(x)
    assert (not by_folds) == from_weight
    by_folds.clear()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained)
    with execution("reuse"):
        torch.testing.assert_close(layer(x), trained)
    assert len(by_folds) == 2
