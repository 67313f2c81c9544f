"""Long signals with few channels in training: against torch's own convolution in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autosample.models import create
from autosample.nn import SummaryConv1d
from autosample.reuse import few

pytestmark = pytest.mark.usefixtures("kernel")


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
def test_it_is_torchs_convolution(channels, filters, taps, stride, padding, dilation, beyond, bias):
    conv = nn.Conv1d(channels, filters, taps, stride, padding, dilation, bias=bias)
    length = max(stride * 1023 + dilation * (taps - 1) + 1 + beyond - 2 * padding, 1)
    x = torch.randn(length, 2, channels).permute(1, 2, 0).requires_grad_()  # not contiguous
    assert few.fits(conv, x, conv.weight)
    y = few.convolve(conv, x, conv.weight, conv.bias)
    grad = torch.randn_like(y)
    found = [y.detach(), *torch.autograd.grad(y, [x, *conv.parameters()], grad)]
    wanted = by_torch(conv, x, grad, torch.clone)
    terms = by_torch(conv, x, grad, torch.abs)  # sums may cancel, but their terms are rounded
    for one, other, size in zip(found, wanted, terms, strict=True):
        assert float(((one.double() - other) / size.clamp(min=1e-6)).abs().max()) < 1e-5


def by_torch(conv: nn.Conv1d, x: Tensor, grad: Tensor, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Output and gradients in float64, with the numbers or their sizes."""
    exact = copy.deepcopy(conv).double()
    with torch.no_grad():
        for p in exact.parameters():
            p.copy_(of(p))
    x = of(x.detach().double()).requires_grad_()
    y = exact(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *exact.parameters()], of(grad.double()))]


LONG = torch.zeros(1, 1, 2048)


@pytest.mark.parametrize(
    ("conv", "x"),
    [
        (nn.Conv1d(17, 2, 3), torch.zeros(1, 17, 2048)),
        (nn.Conv1d(1, 2, 3), LONG[..., :1025]),
        (nn.Conv1d(1, 2, 3), LONG.double()),
        (nn.Conv1d(1, 2, 3).double(), LONG.double()),
        (nn.Conv1d(1, 2, 3), LONG[0]),
        (nn.Conv1d(1, 2, 3, padding="same"), LONG),
        (nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"), LONG),
        (nn.Conv1d(2, 2, 3, groups=2), LONG.expand(1, 2, -1)),
        (nn.Conv1d(1, 2, 3).requires_grad_(False), LONG),
        (nn.Conv2d(1, 2, 3), LONG[..., None]),
        (nn.ConvTranspose1d(1, 2, 3), LONG),
        (nn.Conv1d(1, 2, 3), nn.Parameter(LONG)),
    ],
)
def test_what_torch_computes(conv, x):
    assert not few.fits(conv, x, conv.weight)


def test_what_torch_computes_in_other_ways():
    conv = nn.Conv1d(1, 2, 3)
    assert few.fits(conv, LONG, conv.weight)
    with torch.no_grad():
        assert not few.fits(conv, LONG, conv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not few.fits(conv, LONG, conv.weight)
    per_example = torch.func.vmap(lambda x: torch.zeros(0 if few.fits(conv, x[None], conv.weight) else 1))
    assert per_example(LONG[0].expand(3, 1, -1)).shape == (3, 1)


@pytest.mark.parametrize("hooked", [False, True])
def test_a_net_for_signals_trains_as_by_torch(hooked, monkeypatch):
    torch.manual_seed(0)
    net = create("soundnet8", num_classes=3)
    seen = []
    if hooked:
        net.stages[0].conv.register_forward_hook(lambda _m, _x, y: seen.append(y.shape))
    x, y = torch.randn(2, 1, 40000), torch.tensor([0, 2])
    asked = []
    real = few.convolve
    monkeypatch.setattr(few, "convolve", lambda *args: asked.append(args[0]) or real(*args))
    torch.nn.functional.cross_entropy(net(x), y).backward()
    assert len(seen) == hooked
    assert asked == [net.stages[i].conv for i in range(int(hooked), 2)]
    found = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    monkeypatch.setattr(few, "fits", lambda *args: False)
    torch.nn.functional.cross_entropy(net(x), y).backward()
    for name, p in net.named_parameters():
        assert float((found[name] - p.grad).norm() / p.grad.norm().clamp(min=1e-3)) < 1e-3, name


@pytest.mark.parametrize("spec", ["folded", "random", "hashednet", "kmeans"])
def test_a_sampled_layer_that_computes_from_its_weight(spec, monkeypatch):
    layer = SummaryConv1d(8, 12, 9, stride=2, padding=4, spec=spec, ratio=2)
    asked = []
    real = few.convolve
    monkeypatch.setattr(few, "convolve", lambda *args: asked.append(args[0]) or real(*args))
    x = torch.randn(2, 8, 4096)
    from autosample.nn import execution

    with execution("materialize"):
        y = layer(x)
    assert asked == [layer]
    torch.testing.assert_close(y, F.conv1d(x, layer.dense_weight(), layer.bias, 2, 4), rtol=1e-4, atol=1e-5)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
