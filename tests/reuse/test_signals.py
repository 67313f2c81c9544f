"""Convolutions of signals in training, in ways of our own: against torch's own convolution in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autosample.models import create
from autosample.nn import SummaryConv1d, execution
from autosample.reuse import fused, signals


def by_torch(conv: nn.Conv1d, x: Tensor, grad: Tensor, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Output and gradients in float64, with the numbers or their sizes."""
    exact = copy.deepcopy(conv).double()
    with torch.no_grad():
        for p in exact.parameters():
            p.copy_(of(p))
    x = of(x.detach().double()).requires_grad_()
    y = exact(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *exact.parameters()], of(grad.double()))]


def check(conv: nn.Conv1d, length: int) -> None:
    x = torch.randn(length, 2, conv.in_channels).permute(1, 2, 0).requires_grad_()  # not contiguous
    y = signals.convolve(conv, x, conv.weight, conv.bias)
    assert y is not None
    grad = torch.randn_like(y)
    found = [y.detach(), *torch.autograd.grad(y, [x, *conv.parameters()], grad)]
    wanted = by_torch(conv, x, grad, torch.clone)
    terms = by_torch(conv, x, grad, torch.abs)  # sums may cancel, but their terms are rounded
    for one, other, size in zip(found, wanted, terms, strict=True):
        assert one.shape == other.shape
        assert float(((one.double() - other) / size.clamp(min=1e-6)).abs().max()) < 1e-5


@pytest.mark.usefixtures("kernel")
@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 16),
    filters=st.integers(1, 40),
    taps=st.integers(1, 70),
    stride=st.integers(1, 17),
    padding=st.integers(0, 40),
    dilation=st.integers(1, 3),
    beyond=st.integers(0, 1100),
    bias=st.booleans(),
)
def test_long_signals_with_few_channels(channels, filters, taps, stride, padding, dilation, beyond, bias):
    conv = nn.Conv1d(channels, filters, taps, stride, padding, dilation, bias=bias)
    check(conv, max(stride * 1023 + dilation * (taps - 1) + 1 + beyond - 2 * padding, 1))


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 70),
    filters=st.integers(1, 70),
    taps=st.integers(1, 20),
    stride=st.integers(1, 17),
    padding=st.integers(0, 9),
    outputs=st.integers(1, 16),
    beyond=st.integers(0, 16),
    bias=st.booleans(),
)
def test_few_outputs(channels, filters, taps, stride, padding, outputs, beyond, bias):
    conv = nn.Conv1d(channels, filters, taps, stride, padding, bias=bias)
    length = stride * (outputs - 1) + taps + min(beyond, stride - 1) - 2 * padding
    if length > 0:
        check(conv, length)


LONG, SHORT = torch.zeros(1, 1, 2048), torch.zeros(1, 1, 18)


@pytest.mark.parametrize(
    ("conv", "x"),
    [
        (nn.Conv1d(17, 2, 3), torch.zeros(1, 17, 2048)),
        (nn.Conv1d(1, 2, 3), LONG[..., :1025]),
        (nn.Conv1d(1, 2, 3), LONG[..., :19]),
        (nn.Conv1d(1, 2, 3, dilation=2), SHORT),
        (nn.Conv1d(1, 2, 19), SHORT),
        (nn.Conv1d(1, 2, 3), SHORT.double()),
        (nn.Conv1d(1, 2, 3).double(), LONG.double()),
        (nn.Conv1d(1, 2, 3), LONG[0]),
        (nn.Conv1d(1, 2, 3, padding="same"), LONG),
        (nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"), SHORT),
        (nn.Conv1d(2, 2, 3, groups=2), LONG.expand(1, 2, -1)),
        (nn.Conv1d(1, 2, 3).requires_grad_(False), SHORT),
        (nn.Conv2d(1, 2, 3), LONG[..., None]),
        (nn.ConvTranspose1d(1, 2, 3), SHORT),
        (nn.Conv1d(1, 2, 3), nn.Parameter(LONG)),
    ],
)
def test_what_torch_computes(conv, x):
    assert signals.convolve(conv, x, conv.weight, conv.bias) is None


@pytest.mark.parametrize("x", [LONG, SHORT])
@pytest.mark.usefixtures("kernel")
def test_what_torch_computes_outside_of_a_plain_step(x):
    conv = nn.Conv1d(1, 2, 3)

    def taken(x: Tensor) -> bool:
        return signals.convolve(conv, x, conv.weight, conv.bias) is not None

    assert taken(x)
    with torch.no_grad():
        assert not taken(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(x)
    assert torch.func.vmap(lambda x: torch.zeros(int(taken(x[None]))))(x.expand(3, 1, -1)).shape == (3, 0)


def test_without_the_kernel_long_signals_are_torchs(monkeypatch):
    monkeypatch.setattr(fused, "available", lambda: False)
    conv = nn.Conv1d(1, 2, 3)
    assert signals.convolve(conv, LONG, conv.weight, conv.bias) is None
    assert signals.convolve(conv, SHORT, conv.weight, conv.bias) is not None


@pytest.fixture
def taken(monkeypatch) -> list[nn.Module]:
    """The layers that are computed in ways of our own."""
    layers: list[nn.Module] = []
    real = signals.convolve

    def convolve(conv, *args):
        y = real(conv, *args)
        layers.extend([] if y is None else [conv])
        return y

    monkeypatch.setattr(signals, "convolve", convolve)
    return layers


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.usefixtures("kernel")
def test_a_net_for_signals_trains_as_by_torch(hooked, taken, monkeypatch):
    torch.manual_seed(0)
    net = create("soundnet8", num_classes=3)
    seen = []
    if hooked:
        net.stages[0].conv.register_forward_hook(lambda _m, _x, y: seen.append(y.shape))
    x, y = torch.randn(2, 1, 40000), torch.tensor([0, 2])
    F.cross_entropy(net(x), y).backward()
    assert len(seen) == hooked
    assert taken == [stage.conv for i, stage in enumerate(net.stages) if i in (*range(int(hooked), 2), 5, 6, 7)]
    found = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    monkeypatch.setattr(signals, "convolve", lambda *args: None)
    F.cross_entropy(net(x), y).backward()
    for name, p in net.named_parameters():
        assert float((found[name] - p.grad).norm() / p.grad.norm().clamp(min=1e-3)) < 1e-3, name


@pytest.mark.parametrize("length", [4096, 20])
@pytest.mark.parametrize("spec", ["folded", "random", "hashednet", "kmeans"])
@pytest.mark.usefixtures("kernel")
def test_a_sampled_layer_that_computes_from_its_weight(spec, length, taken):
    layer = SummaryConv1d(8, 12, 9, stride=2, padding=4, spec=spec, ratio=2)
    x = torch.randn(2, 8, length)
    with execution("materialize"):
        y = layer(x)
    assert taken == [layer]
    torch.testing.assert_close(y, F.conv1d(x, layer.dense_weight(), layer.bias, 2, 4), rtol=1e-4, atol=1e-5)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
