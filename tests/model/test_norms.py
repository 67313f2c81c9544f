"""Renewed statistics of batch norms, against a loop and against torch's own function."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import autosample
from autosample.errors import ConfigError, ConversionError


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(128, 4)
    )
    made[1].running_mean.fill_(7.0)
    return made


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 3, 6, 6, generator=generator), torch.zeros(16)) for _ in range(3)]


def test_statistics_are_those_of_torchs_function(net):
    expected = copy.deepcopy(net)
    update_bn(batches(), expected)
    net[3].eval()
    before = copy.deepcopy(net.state_dict())
    assert autosample.renew_norms_(net, batches()) is net
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name] if name.startswith("1.") else before[name])
    assert net.training
    assert not net[3].training
    assert net[1].momentum == 0.1


def test_so_many_batches_are_read_and_inputs_may_be_bare(net):
    taken = (x for x, _ in batches())
    autosample.renew_norms_(net.eval(), taken, most=2)
    assert len(list(taken)) == 1
    assert net[1].num_batches_tracked == 2
    assert not net[1].training


def test_a_clustered_net_needs_it():
    torch.manual_seed(0)
    x = torch.randn(256, 3, 6, 6) * 3 + 5
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16))
    autosample.renew_norms_(net, [x])
    small = autosample.convert(net, "kmeans", ratio=8, warm_start=True)[0]
    errors = []
    for _ in range(2):
        with torch.no_grad():
            errors.append(float((small.eval()(x) - net.eval()(x)).square().mean()))
        autosample.renew_norms_(small, [x])
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("given", "most", "error", "said"),
    [
        ([], 20, ConfigError, "needs batches of inputs, got none"),
        (batches(), 0, ConfigError, "most must be at least 1"),
        ([torch.zeros(2, 5)], 20, ConversionError, r"got shape \(2, 5\)"),
    ],
)
def test_mistakes_change_nothing(net, given, most, error, said):
    before = copy.deepcopy(net.eval().state_dict())
    with pytest.raises(error, match=said):
        autosample.renew_norms_(net, given, most)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net[1].training
    assert net[1].momentum == 0.1
