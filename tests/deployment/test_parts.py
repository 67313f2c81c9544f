"""A convolution in parts of the batch gives what the modules give one after the other."""

import copy

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from autosample import deploy
from autosample.deployment import parts
from autosample.deployment.parts import ConvInParts, in_parts

CONVS = {
    "1d": (nn.Conv1d(4, 6, 5, stride=2, padding=2, groups=2), (5, 4, 31)),
    "2d": (nn.Conv2d(3, 8, 3, padding=1, bias=False), (5, 3, 12, 11)),
    "dilated": (nn.Conv2d(3, 8, (3, 2), stride=(2, 1), dilation=(1, 2)), (4, 3, 12, 11)),
}
POOLS = {"1d": [nn.MaxPool1d(3), nn.MaxPool1d(3, 2, 1, ceil_mode=True)], "2d": [nn.MaxPool2d(3, 2, 1)]}
POOLS["dilated"] = [nn.MaxPool2d((3, 2), (2, 1), dilation=(1, 2)), nn.MaxPool2d(2, ceil_mode=True)]
CASES = [(name, relu, pool) for name in CONVS for relu in (True, False) for pool in (None, *POOLS[name])]


def steps(conv, relu, pool):
    return nn.Sequential(conv, *([nn.ReLU()] if relu else []), *([pool] if pool else [])).requires_grad_(False)


@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize(("name", "relu", "pool"), CASES)
def test_parts_equal_the_whole(name, relu, pool, size):
    conv, shape = CONVS[name]
    x, module = torch.randn(shape), ConvInParts(conv, relu, pool, size)
    expected = steps(conv, relu, pool)(x)
    with torch.no_grad():
        for got in (module(x), module.whole(x), module.standard()(x)):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
        assert module(x).is_contiguous()
        torch.testing.assert_close(module(x[0]), expected[0], rtol=1e-6, atol=1e-6)
        assert module(x[:0]).shape == expected[:0].shape


def test_gradients_autocast_and_graphs():
    conv, shape = CONVS["2d"]
    module, x = ConvInParts(conv.requires_grad_(False), True, nn.MaxPool2d(3, 2, 1), 2), torch.randn(shape)
    given = x.clone().requires_grad_()
    module(given).square().sum().backward()
    other = x.clone().requires_grad_()
    steps(conv, True, nn.MaxPool2d(3, 2, 1))(other).square().sum().backward()
    torch.testing.assert_close(given.grad, other.grad)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    torch.library.opcheck(parts.conv_in_parts, (*module._arguments(x), 2))
    assert "conv_in_parts" in make_fx(module)(x).code
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    assert "autosample" not in exported.module().code  # standard operators, for runtimes without autosample
    torch.testing.assert_close(exported.module()(x[:3]), module(x[:3]))
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))


@pytest.fixture
def fast_parts(monkeypatch, tmp_path):
    """Parts of two examples are always the fastest."""
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path))
    monkeypatch.setattr(parts, "_LARGE", 0)
    monkeypatch.setattr(parts, "remembered", lambda key, names, measure: {n: 1 + (n[:1] != "2") for n in names})


def stem(**changes):
    options = {"padding": 1, **changes}
    modules = nn.Sequential(nn.Conv2d(3, 8, 3, **options), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    modules[1].running_mean.normal_()
    return modules.eval()


def test_deployed_models_take_them_where_they_are_faster(fast_parts):
    model, x = stem(), torch.randn(4, 3, 9, 9)
    before = copy.deepcopy(model.state_dict())
    fast = deploy(model, x)
    assert [type(m) for m in fast] == [ConvInParts, *[nn.Identity] * 3]
    (row,) = fast.deployment.rows
    assert (row.plan.kind, row.folded) == ("dense", ("norm", "relu", "pool"))
    assert "2 of a batch at a time" in row.plan.reason
    for shape in ((4, 3, 9, 9), (1, 3, 9, 9), (3, 3, 12, 10)):
        x = torch.randn(shape)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    assert not any(isinstance(m, ConvInParts) for m in deploy(model, x, fuse=False).modules())
    assert not any(isinstance(m, ConvInParts) for m in deploy(model, x, measure=False).modules())


@pytest.mark.parametrize("changes", [{"padding": "same"}, {"padding_mode": "circular"}], ids=str)
def test_paddings_that_it_has_not(fast_parts, changes):
    assert not any(isinstance(m, ConvInParts) for m in deploy(stem(**changes), torch.randn(4, 3, 9, 9)).modules())


def test_where_there_is_nothing_to_gain(fast_parts, monkeypatch):
    conv = nn.Conv2d(3, 8, 3)
    assert in_parts(conv, False, None, torch.randn(4, 3, 9, 9)) is None  # nothing follows
    assert in_parts(conv, True, None, torch.randn(1, 3, 9, 9)) is None  # one example
    assert in_parts(conv, True, None, torch.randn(3, 9, 9)) is None  # no batch
    assert in_parts(nn.Linear(3, 8), True, None, torch.randn(4, 3)) is None
    assert in_parts(conv, True, None, torch.randn(4, 3, 9, 9)) is not None
    monkeypatch.setattr(parts, "remembered", lambda key, names, measure: dict.fromkeys(names, 1.0))
    assert in_parts(conv, True, None, torch.randn(4, 3, 9, 9)) is None  # not faster
    monkeypatch.setattr(parts, "_LARGE", 1 << 30)
    assert in_parts(conv, True, None, torch.randn(4, 3, 9, 9)) is None  # fits into the cache
