"""Nets for images of 32 pixels."""

from typing import Any

import pytest
import torch
from torch import nn

from autosample import convert_
from autosample.errors import ConfigError
from autosample.models import create

NETS: dict[str, dict[str, Any]] = {
    "resnet18_cifar": {},
    "wrn16_4": {"depth": 10, "width": 1},
    "densenet40_12": {"block_config": (2, 2, 2)},
}


@pytest.mark.parametrize("name", NETS)
def test_parts_compose_and_the_classifier_can_be_replaced(name):
    net = create(name, num_classes=3, in_chans=1, **NETS[name]).eval()
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        features = net.forward_features(x)
        assert features.shape[:2] == (2, net.num_features)
        pooled = net.forward_head(features, pre_logits=True)
        torch.testing.assert_close(net.get_classifier()(pooled), net(x))
        net.reset_classifier(0)
        torch.testing.assert_close(net(x), pooled)


def test_densenet_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        net = create("densenet40_12", num_classes=10, block_config=(16, 16, 16))
    # DenseNet-BC of depth 100 and growth 12: 0.8 M in the paper, 769,162 in full; timm's stem has a norm of 24 channels
    assert sum(p.numel() for p in net.parameters()) == 769_162 + 48


@pytest.mark.parametrize("stride", [1, 2])
def test_densenet_keeps_the_resolution_but_for_the_stride_of_its_stem(stride):
    net = create("densenet40_12", num_classes=3, in_chans=1, stem_stride=stride, **NETS["densenet40_12"])
    maps = net.forward_intermediates(torch.randn(1, 1, 16, 16), intermediates_only=True)
    assert [16 // m.shape[-1] for m in maps] == [stride, stride, 2 * stride, 4 * stride]
    assert [m.shape[-1] * info["reduction"] for m, info in zip(maps, net.feature_info, strict=True)] == [16] * 4
    assert not any(isinstance(m, nn.MaxPool2d) for m in net.modules())


def test_a_folded_densenet_learns():
    net = create("densenet40_12", num_classes=3, **NETS["densenet40_12"])
    convert_(net, "folded", ratio=4)
    loss = nn.functional.cross_entropy(net(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["wrn16_4", "densenet40_12"])
def test_a_stem_has_a_stride(name):
    with pytest.raises(ConfigError, match="stem_stride must be at least 1, got 0"):
        create(name, num_classes=3, stem_stride=0)
    net = create(name, num_classes=3, stem_stride=2, **NETS[name])
    assert net.forward_features(torch.randn(1, 3, 16, 16)).shape[2:] == (2, 2)


def test_residual_blocks_take_the_place_of_dense_ones_with_outputs_of_the_same_shape():
    dense = create("densenet40_12", num_classes=3, stem_stride=2, **NETS["densenet40_12"]).eval()
    net = create("densenet40_12", num_classes=3, stem_stride=2, residual_blocks=2, **NETS["densenet40_12"]).eval()
    x, shapes = torch.randn(1, 3, 16, 16), []
    for one in (dense, net):
        parts = [m for name, m in one.features.named_children() if name.startswith("denseblock")]
        hooks = [m.register_forward_hook(lambda _m, _x, y: shapes.append(tuple(y.shape))) for m in parts]
        one(x)
        for hook in hooks:
            hook.remove()
    assert shapes[:3] == shapes[3:] == [(1, 48, 8, 8), (1, 48, 4, 4), (1, 48, 2, 2)]
    assert [len(m) for name, m in net.features.named_children() if name.startswith("denseblock")] == [2, 2, 2]
    rest = [{k: v.shape for k, v in n.state_dict().items() if "denseblock" not in k} for n in (dense, net)]
    assert rest[0] == rest[1]
    with pytest.raises(ConfigError, match="residual_blocks must be at least 0, got -1"):
        create("densenet40_12", num_classes=3, residual_blocks=-1)
