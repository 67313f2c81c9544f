"""Dense convolutions that torch computes slowly in the fused kernel, against torch in float64."""

import copy

import pytest
import torch
from torch import nn

from autosample import convert, deploy
from autosample.deployment import slow
from autosample.nn import SummaryConv1d
from autosample.reuse.layer import WindowConv
from autosample.reuse.planner import Plan

NETS = {
    "signal": (nn.Conv1d(1, 12, 20, 3, 10, bias=False), nn.BatchNorm1d(12), nn.MaxPool1d(4), (2, 1, 301)),
    "signal without a pool": (nn.Conv1d(2, 5, 7, dilation=2), nn.BatchNorm1d(5), nn.Identity(), (1, 2, 50)),
    "image": (nn.Conv2d(3, 10, (7, 5), 2, (3, 1)), nn.BatchNorm2d(10), nn.MaxPool2d(3, 2, 1), (2, 3, 33, 40)),
    "shortcut": (nn.Conv2d(24, 20, 1, 2, bias=False), nn.BatchNorm2d(20), nn.Identity(), (2, 24, 13, 11)),
    "shortcut of a signal": (nn.Conv1d(17, 9, 1, 3), nn.BatchNorm1d(9), nn.Identity(), (1, 17, 50)),
}


def net_of(conv: nn.Module, norm: nn.Module, pool: nn.Module) -> nn.Sequential:
    model = nn.Sequential(conv, norm, nn.ReLU(), pool, nn.Flatten()).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def always(kernel, monkeypatch):
    """The kernel is always the fastest."""

    def pick(key, modules, dense, x, saving):
        return Plan("fused", "measured 2.0x"), modules["fused"]

    monkeypatch.setattr(slow, "timed", pick)


@pytest.mark.parametrize("kind", NETS)
def test_it_computes_the_layer_and_what_follows(kind, always):
    *layers, shape = NETS[kind]
    model, x = net_of(*copy.deepcopy(layers)), torch.randn(shape)
    fast = deploy(model, x)
    with torch.no_grad():
        right = copy.deepcopy(model).double()(x.double())
        assert float((fast(x) - right).abs().max() / right.abs().max()) < 2e-6


def test_the_row_says_what_was_folded_in(always):
    model, x = net_of(*copy.deepcopy(NETS["signal"][:3])), torch.randn(NETS["signal"][3])
    wide = nn.Sequential(model, nn.Unflatten(1, (12, -1)), nn.Conv1d(12, 12, 3, groups=2), nn.ReLU()).eval()
    fast = deploy(wide, x)
    (module,) = [m for m in fast.modules() if isinstance(m, WindowConv)]
    assert module.relu
    assert module.pool == 4
    assert next((row.plan.kind, row.folded) for row in fast.deployment.rows) == ("fused", ("norm", "relu", "pool"))


def test_other_layers_stay_as_they_are(always):
    x = torch.randn(1, 65, 30)
    layers = [nn.Conv1d(65, 8, 3), nn.Conv1d(65, 65, 3, groups=65), nn.Conv1d(65, 8, 1), nn.Conv2d(65, 8, 3)]
    for layer in layers:
        assert not slow.is_slow(layer, x)
    assert slow.is_slow(nn.Conv1d(65, 8, 1, 2), x)
    assert not slow.is_slow(nn.Conv2d(9, 8, 3), torch.randn(1, 9, 30, 30))
    assert slow.is_slow(nn.Conv1d(64, 8, 3), x[:, :64])
    assert not slow.is_slow(nn.Conv1d(64, 8, 3, padding="same"), x[:, :64])
    signal, conv = torch.randn(1, 4, 30), nn.Conv1d(4, 8, 3)
    assert slow.is_slow(conv, signal)
    assert not slow.is_slow(nn.Conv1d(4, 8, 3, padding=1, padding_mode="circular"), signal)
    assert not slow.is_slow(copy.deepcopy(conv).half(), signal.half())
    assert not slow.is_slow(conv, signal[0])
    assert not slow.is_slow(conv, None)
    assert not slow.is_slow(nn.Linear(4, 8), signal)


def test_without_measuring_nothing_changes(always):
    model, x = net_of(*copy.deepcopy(NETS["signal"][:3])), torch.randn(NETS["signal"][3])
    assert not any(isinstance(m, WindowConv) for m in deploy(model, x, measure=False).modules())
    assert not any(isinstance(m, WindowConv) for m in deploy(model, x, fuse=False).modules())


def test_a_compressed_net_keeps_its_first_layer_dense_and_runs_it_fast(always):
    model = nn.Sequential(nn.Conv1d(1, 16, 32, 2), nn.ReLU(), nn.Conv1d(16, 32, 32), nn.ReLU()).eval()
    changed, _ = convert(model, "wsnet", ratio=8, exclude=["0"])
    assert not isinstance(changed[0], SummaryConv1d)
    x = torch.randn(1, 1, 4000)
    fast = deploy(changed, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), changed(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["random", "hashednet", "kmeans"])
def test_a_sampled_layer_that_stays_dense_runs_in_the_kernel_too(spec, always):
    model = net_of(nn.Conv1d(3, 16, 9, 2, 4), nn.BatchNorm1d(16), nn.MaxPool1d(2))
    changed, _ = convert(model, spec, ratio=2, window=3, grid=1)
    x = torch.randn(2, 3, 4000)
    fast = deploy(changed.eval(), x)
    (row,) = fast.deployment.rows
    assert isinstance(fast[0], WindowConv)
    assert row.plan.kind == "fused"
    assert row.plan.reason.endswith("measured 2.0x")
    assert row.folded == ("norm", "relu", "pool")
    with torch.no_grad():
        right = copy.deepcopy(changed).double()(x.double())
        assert float((fast(x) - right).abs().max() / right.abs().max()) < 1e-5
    back = deploy(changed, x, fuse=False)
    assert back.deployment.rows[0].plan.kind != "fused"
