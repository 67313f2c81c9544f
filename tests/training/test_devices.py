"""Batch norms over several processes."""

import copy

import pytest
import timm
import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

import autosample
from autosample.errors import ConfigError
from autosample.models import create
from autosample.training.devices import SyncNorms, check_devices


@pytest.fixture
def several(trainer):
    return lambda strategy, **options: trainer(devices=2, strategy=strategy, **options)


def test_shared_norms_are_refused_on_a_cpu(several):
    check_devices(several("ddp"))
    with pytest.raises(ConfigError, match=r"got sync_batchnorm on the CPU: leave it out there"):
        check_devices(several("ddp", sync_batchnorm=True))


def test_shared_norms_are_ours_on_an_accelerator(several, monkeypatch):
    loop = several("ddp", sync_batchnorm=True)
    monkeypatch.setattr(DDPStrategy, "root_device", torch.device("cuda", 0))
    check_devices(loop)
    assert type(loop.strategy._layer_sync) is SyncNorms


@pytest.mark.parametrize(("name", "spec"), [("test_efficientnet", "folded"), ("digitnet", "strassen")])
def test_shared_norms_keep_activations_and_give_norms_back(name, spec):
    torch.manual_seed(0)
    net = create(name, num_classes=10, in_chans=1)
    autosample.convert_(net, spec, ratio=4)
    x = torch.randn(4, 1, 32, 32)
    net(x)  # statistics that are not those of the start
    expected, kinds = net.eval()(x), [type(m) for m in net.modules()]
    sync = SyncNorms()
    shared = sync.apply(net)
    norms = [m for m in shared.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 4
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert torch.equal(shared(x), expected)
    with torch.no_grad():
        for norm in norms:
            norm.running_var = 2 * norm.running_var  # another tensor, as after a move to another device
    moved = shared(x)
    back = sync.revert(shared)
    assert [type(m) for m in back.modules()] == kinds
    assert torch.equal(back(x), moved)
    assert not torch.equal(moved, expected)


def test_lightnings_own_plugin_drops_activations():
    """Why there is another one; if this fails, Lightning's is good enough."""
    net = timm.create_model("test_efficientnet", num_classes=10).eval()
    x = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(TorchSyncBatchNorm().apply(copy.deepcopy(net))(x), net(x))
