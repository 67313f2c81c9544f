"""Norm, max-pool and ReLU in one: against torch's own modules in float64."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autosample.models import ConvStack1d, Row, StackCfg
from autosample.reuse import norm_pool

pytestmark = pytest.mark.usefixtures("kernel")


def modules(channels: int, pool: int) -> tuple[nn.BatchNorm1d, nn.MaxPool1d, nn.ReLU]:
    norm = nn.BatchNorm1d(channels)
    with torch.no_grad():  # factors of both signs
        norm.weight.normal_(), norm.bias.normal_()
    return norm, nn.MaxPool1d(pool), nn.ReLU()


def by_torch(x: Tensor, grad: Tensor, norm: nn.BatchNorm1d, pool: nn.MaxPool1d) -> tuple[nn.BatchNorm1d, list[Tensor]]:
    norm, x = copy.deepcopy(norm).to(x.dtype), x.detach().clone().requires_grad_()
    y = torch.relu(pool(norm(x)))
    return norm, [y.detach(), *torch.autograd.grad(y, (x, norm.weight, norm.bias), grad.to(y.dtype))]


def by_us(x: Tensor, grad: Tensor, norm: nn.BatchNorm1d, pool: nn.MaxPool1d) -> tuple[nn.BatchNorm1d, list[Tensor]]:
    norm, x = copy.deepcopy(norm), x.detach().clone().requires_grad_()
    y = norm_pool.norm_pool_relu(x, norm, pool)
    return norm, [y.detach(), *torch.autograd.grad(y, (x, norm.weight, norm.bias), grad)]


def error(got: Tensor, wanted: Tensor, least: float = 0.1) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=least))


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    length=st.one_of(st.integers(2, 300), st.sampled_from([4095, 4096, 4097, 9001])),
    pool=st.sampled_from([2, 3, 4, 5, 8, 10, 100]),
    mean=st.sampled_from([0.0, 1.0, -30.0]),
)
def test_it_is_norm_pool_and_relu(batch, channels, length, pool, mean):
    if length < pool:
        return
    torch.manual_seed(length)
    norm, pools, _ = modules(channels, pool)
    x = torch.randn(batch, channels, length) + mean
    grad = torch.randn(batch, channels, length // pool)
    moved, results = by_us(x, grad, norm, pools)
    exact, wanted = by_torch(x.double(), grad, norm, pools)
    _, torch_s = by_torch(x, grad, norm, pools)
    # gradients are sums that may cancel, but their terms are rounded: errors are measured by these
    steepest = float(
        (norm.weight.detach().abs() / (x.var((0, 2), correction=0) + norm.eps).sqrt()).max() * grad.abs().max()
    )
    many = (grad.numel() / channels) ** 0.5
    for got, right, plain, least in zip(results, wanted, torch_s, (0.1, steepest, many, many), strict=True):
        assert error(got, right, least) <= max(2e-6, 2 * error(plain, right, least))
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(moved, name), getattr(exact, name).float(), rtol=1e-5, atol=1e-6)
    assert moved.num_batches_tracked == 1


def test_the_first_of_equal_samples_gets_the_gradient():
    norm, pool = nn.BatchNorm1d(1), nn.MaxPool1d(4)
    x = torch.tensor([[[1.0, 1.0, 0.0, 1.0] * 20]])
    grad = torch.rand(1, 1, 20)
    for got, wanted in zip(by_us(x, grad, norm, pool)[1], by_torch(x.double(), grad, norm, pool)[1], strict=True):
        assert error(got, wanted) < 1e-6


def test_a_nan_stays():
    norm, pool, _ = modules(3, 8)
    x = torch.randn(2, 3, 800)
    x[1, 1, 77] = torch.nan
    y = norm_pool.norm_pool_relu(x, norm, pool)
    assert torch.equal(y.isnan(), torch.tensor([False, True, False]).view(1, 3, 1).expand_as(y))


def test_results_do_not_depend_on_threads():
    norm, pool, _ = modules(7, 4)
    x, grad = torch.randn(3, 7, 5000), torch.randn(3, 7, 1250)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        _, alone = by_us(x, grad, norm, pool)
        torch.set_num_threads(2)
        _, together = by_us(x, grad, norm, pool)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_net_trains_the_same_with_and_without(monkeypatch):
    net = ConvStack1d(StackCfg((Row(16, 8, stride=2, pool=4), Row(8, 4, pool=2))), num_classes=3).train()
    plain, x, y = copy.deepcopy(net), torch.randn(8, 1, 16384), torch.arange(8) % 3
    calls = []
    monkeypatch.setattr(norm_pool, "norm_pool_relu", _counted(calls, norm_pool.norm_pool_relu))
    nn.functional.cross_entropy(net(x), y).backward()
    assert len(calls) == 1  # the second stage is too small to gain
    monkeypatch.setattr(norm_pool, "fits", lambda *_: False)
    nn.functional.cross_entropy(plain(x), y).backward()
    for (name, a), b in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-6), name
    for (name, a), b in zip(net.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7), name


def _counted(calls, run):
    def counted(*args):
        calls.append(args)
        return run(*args)

    return counted


def test_what_it_cannot_stand_for_is_left_to_torch():
    norm, pool, act = modules(4, 8)
    x = torch.randn(32, 4, 8192)
    assert norm_pool.fits(x, norm, pool, act)
    assert not norm_pool.fits(x[:1], norm, pool, act)
    assert not norm_pool.fits(x.bfloat16(), norm, pool, act)
    assert not norm_pool.fits(x, nn.SyncBatchNorm(4), pool, act)
    assert not norm_pool.fits(x, nn.BatchNorm1d(4, affine=False), pool, act)
    assert not norm_pool.fits(x, nn.BatchNorm1d(4, momentum=None), pool, act)
    assert not norm_pool.fits(x, nn.BatchNorm1d(4, track_running_stats=False), pool, act)
    assert not norm_pool.fits(x, nn.Identity(), pool, act)
    assert not norm_pool.fits(x, norm, nn.MaxPool1d(8, stride=4), act)
    assert not norm_pool.fits(x, norm, nn.MaxPool1d(8, ceil_mode=True), act)
    assert not norm_pool.fits(x, norm, nn.Identity(), act)
    assert not norm_pool.fits(x, norm, pool, nn.GELU())
    with torch.autocast("cpu"):
        assert not norm_pool.fits(x, norm, pool, act)
    handle = norm.register_forward_hook(lambda *_: None)
    assert not norm_pool.fits(x, norm, pool, act)
    handle.remove()
    assert norm_pool.fits(x, norm, pool, act)
    assert not norm_pool.fits(x, norm.eval(), pool, act)


def test_places_beyond_a_window_are_refused():
    x, ones, wide = torch.randn(1, 2, 64), torch.ones(2), torch.ones(2, dtype=torch.float64)
    y, extreme, place, mean, variance = torch.ops.autosample.norm_pool(x, ones, ones, 1e-5, 4)
    backward = torch.ops.autosample.norm_pool_backward
    backward(torch.ones_like(y), x, y, extreme, place, mean, variance, ones, 1e-5, 4)
    place[0, 1, 3] = 4
    with pytest.raises(RuntimeError, match="places must lie within their windows"):
        backward(torch.ones_like(y), x, y, extreme, place, mean, wide, ones, 1e-5, 4)
