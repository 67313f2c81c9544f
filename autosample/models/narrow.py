"""Narrow nets: dense nets with fewer channels, a baseline for sampling."""

from typing import Any

from torch import nn

from autosample.errors import ConfigError
from autosample.models._net import StagedNet, scaled


def width_args(net: nn.Module, width: float) -> dict[str, Any]:
    """Arguments for `create` that give a net with `width` times the channels in every layer.

    Args:
        net: The net at its full width; it may be on the meta device.
        width: Factor, above 0.

    Raises:
        ConfigError: This net cannot be made narrow.
    """
    if isinstance(net, StagedNet):
        return {"width": width}
    from timm.models.resnet import Bottleneck, ResNet

    if not isinstance(net, ResNet):
        raise ConfigError(
            f"narrow works for autosample's nets and timm's ResNets, got {type(net).__name__}: remove narrow from the "
            "presets"
        )
    channels = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        block: Any = next(net.get_submodule(name).children())
        # the planes of a ResNet, which its blocks multiply by their expansion
        bottle = isinstance(block, Bottleneck)
        planes = block.conv3.out_channels // block.expansion if bottle else block.conv1.out_channels
        channels.append(scaled(planes, width))
    stem = {}
    if isinstance(net.conv1, nn.Sequential):  # other stems always have 64 channels
        first: Any = net.conv1[0]
        stem = {"stem_width": scaled(first.out_channels, width)}
    return {"channels": tuple(channels), **stem}
