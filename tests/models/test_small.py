"""The small image nets: counts, shapes, options."""

from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from autosample.errors import ConfigError, DataError


def count(net: nn.Module, ndim: int = 1) -> int:
    """Parameters with at least `ndim` axes; 2 counts weights only."""
    return sum(p.numel() for p in net.parameters() if p.ndim >= ndim)


def test_mlp784_counts():
    net = timm.create_model("mlp784")
    assert count(net, 2) == 784 * 1000 + 1000 * 10 == 794_000
    assert count(net) == 794_000 + 1_010
    net = timm.create_model("mlp784_5")
    assert count(net, 2) == 784 * 1000 + 2 * 1000 * 1000 + 1000 * 10 == 2_794_000


def test_mlp_takes_images_and_vectors():
    net = timm.create_model("mlp784").eval()
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(net(x), net(x.flatten(1)))


def test_mlp_sizes():
    net = timm.create_model("mlp784", hidden=[20, 30], img_size=(8, 6), in_chans=2, num_classes=4)
    assert [m.weight.shape for m in net.modules() if isinstance(m, nn.Linear)] == [(20, 96), (30, 20), (4, 30)]
    assert net(torch.zeros(3, 2, 8, 6)).shape == (3, 4)
    assert len(timm.create_model("mlp784", hidden=(5, 6), features_only=True)(torch.zeros(1, 784))) == 2


def test_mlp_has_one_dropout_after_each_hidden_layer():
    net = timm.create_model("mlp784_5", drop_rate=0.25)
    assert sum(isinstance(m, nn.Dropout) and m.p == 0.25 for m in net.modules()) == 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"hidden": ()}, "at least one hidden"), ({"img_size": 0}, "sizes >= 1"), ({"global_pool": "avg"}, "one of")],
)
def test_mlp_bad_arguments(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        timm.create_model("mlp784", **kwargs)


def test_mlp_wrong_image():
    with pytest.raises(DataError, match="takes 784 values per image"):
        timm.create_model("mlp784")(torch.zeros(2, 1, 32, 32))


def test_freshnet_has_the_published_size():
    net = timm.create_model("freshnet")
    widths = (3, 32, 64, 64, 128, 256)
    weights = 25 * sum(a * b for a, b in pairwise(widths)) + 256 * 4 * 4 * 10
    assert count(net, 2) == weights == 1_220_960
    assert count(net) == weights + 2 * sum(widths[1:]) + 10
    assert abs(count(net) / 1.2e6 - 1) < 0.03
    x = torch.randn(2, 3, 32, 32)
    assert net.forward_features(x).shape == (2, 256, 4, 4)
    assert net(torch.randn(2, 3, 40, 36)).shape == (2, 10)


def test_freshnet_without_norm_has_biases():
    net = timm.create_model("freshnet", norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d))
    assert count(net) == 1_220_960 + 544 + 10


def test_digitnet_counts_and_shapes():
    net = timm.create_model("digitnet")
    widths = (1, 32, 64, 64, 128, 128)
    assert count(net, 2) == 9 * sum(a * b for a, b in pairwise(widths)) + 1280
    assert 200_000 < count(net) < 300_000
    assert net.forward_features(torch.zeros(2, 1, 8, 8)).shape == (2, 128, 2, 2)
    with pytest.raises(DataError, match="at least 4 pixels per side"):
        net(torch.zeros(1, 1, 8, 3))
    with pytest.raises(DataError, match=r"takes \[B, 1, H, W\]"):
        net(torch.zeros(1, 8, 8))
