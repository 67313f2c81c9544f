"""Nets for images of 32 pixels: ResNet (He et al. 2016, https://arxiv.org/abs/1512.03385) and DenseNet (Huang et al.
2017, https://arxiv.org/abs/1608.06993) with a stem for CIFAR, and wide residual nets (Zagoruyko and Komodakis 2016,
https://arxiv.org/abs/1605.07146).
"""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseBlock, DenseNet
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from autosample.errors import ConfigError


def _check_stem(stride: int) -> None:
    if stride < 1:
        raise ConfigError(f"stem_stride must be at least 1, got {stride}: leave it out for 1")


def _check_blocks(count: int) -> None:
    if count < 0:
        raise ConfigError(f"residual_blocks must be at least 0, got {count}: leave it out for dense blocks")


def _draw_weights(net: nn.Module) -> None:
    """Draw the weights of convolutions, for ReLUs (He et al. 2015)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CifarResNet(ResNet):
    """timm's ResNet whose stem keeps the resolution: a 3×3 convolution of stride 1, and no pooling.

    `forward` takes `[B, in_chans, H, W]`, usually 32 pixels per side, and returns `[B, num_classes]`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        wide: Any = self.conv1
        dd = {"device": wide.weight.device, "dtype": wide.weight.dtype}
        self.conv1 = nn.Conv2d(wide.in_channels, wide.out_channels, 3, padding=1, bias=False, **dd)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for info in self.feature_info:
            info["reduction"] = max(int(info["reduction"]) // 4, 1)


class CifarDenseNet(DenseNet):
    """timm's DenseNet-BC whose stem is a 3×3 convolution of stride `stem_stride` (1), without pooling.

    `residual_blocks` puts so many residual blocks in the place of each dense block, with outputs of the same shape: the
    students of another kind of Furlanello et al. 2018. `forward` takes `[B, in_chans, H, W]`, usually 32 pixels per
    side, and returns `[B, num_classes]`.
    """

    def __init__(self, *args: Any, stem_stride: int = 1, residual_blocks: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_stem(stem_stride)
        _check_blocks(residual_blocks)
        wide: Any = self.features.conv0
        dd = {"device": wide.weight.device, "dtype": wide.weight.dtype}
        narrow = nn.Conv2d(wide.in_channels, wide.out_channels, 3, stem_stride, padding=1, bias=False, **dd)
        nn.init.kaiming_normal_(narrow.weight)
        self.features.conv0, self.features.pool0 = narrow, nn.Identity()
        for info in self.feature_info:
            info["reduction"] = max(int(info["reduction"]) // 4, 1) * stem_stride
        for name, block in list(self.features.named_children()) if residual_blocks else ():
            if isinstance(block, DenseBlock):
                setattr(self.features, name, _residual(block, residual_blocks, dd))


def _residual(dense: Any, count: int, dd: dict[str, Any]) -> nn.Sequential:
    """`count` residual blocks from as many channels to as many as a dense block has."""
    layers = list(dense.children())
    first, last = layers[0].norm1.num_features, layers[-1].norm1.num_features + layers[-1].conv2.out_channels
    blocks = [WideBlock(last if number else first, last, 1, False, dd) for number in range(count)]
    net = nn.Sequential(*blocks)
    _draw_weights(net)
    return net


class WideBlock(nn.Module):
    """Norm, ReLU and a 3×3 convolution, twice, and a shortcut; where its width changes, a 1×1 convolution."""

    def __init__(self, channels: int, width: int, stride: int, bias: bool, dd: dict[str, Any]) -> None:
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(channels, **dd), nn.ReLU()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=bias, **dd)
        self.bn2, self.act2 = nn.BatchNorm2d(width, **dd), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias, **dd)
        changed = channels != width or stride != 1
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=bias, **dd) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        """From `[B, channels, H, W]` to `[B, width, H / stride, W / stride]`."""
        y = self.act1(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(self.act2(self.bn2(self.conv1(y)))) + kept


class WideResNet(nn.Module):
    """WRN-`depth`-`width`, with pre-activation blocks in three stages.

    `forward` takes `[B, in_chans, H, W]`, usually 32 pixels per side, and returns `[B, num_classes]`.

    Args:
        num_classes: Classes; 0 for a net that gives pooled features.
        in_chans: Input channels.
        depth: `6·n + 4`, for `n` blocks in a stage.
        width: Factor of the stages' widths 16, 32 and 64.
        bias: Whether convolutions have biases.
        drop_rate: Dropout before the classifier.
        stem_stride: Stride of the first convolution.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        depth: int = 16,
        width: int = 4,
        bias: bool = False,
        drop_rate: float = 0.0,
        stem_stride: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise ConfigError(
                f"depth must be 10, 16, 22, … and width at least 1, got {depth} and {width}: use 16 and 4"
            )
        _check_stem(stem_stride)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = 64 * width
        self.conv1 = nn.Conv2d(in_chans, 16, 3, stem_stride, padding=1, bias=bias, **dd)
        channels, stages = 16, []
        for stage in range(3):
            blocks = []
            for block in range((depth - 4) // 6):
                blocks.append(WideBlock(channels, 16 * width << stage, 1 + (stage > 0 and not block), bias, dd))
                channels = 16 * width << stage
            stages.append(nn.Sequential(*blocks))
        self.stages, self.norm, self.act = nn.Sequential(*stages), nn.BatchNorm2d(channels, **dd), nn.ReLU()
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(channels, num_classes, **dd) if num_classes else nn.Identity()
        _draw_weights(self)

    def get_classifier(self) -> nn.Module:
        """The layer whose outputs are the classes."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier; 0 removes it."""
        place = {"device": self.conv1.weight.device, "dtype": self.conv1.weight.dtype}
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes, **place) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """The maps before pooling, `[B, 64·width, H / 4, W / 4]`."""
        return self.act(self.norm(self.stages(self.conv1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Class scores of these maps; the pooled features with `pre_logits`."""
        x = self.drop(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return self.forward_head(self.forward_features(x))


_CFG = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "first_conv": "conv1",
    "classifier": "fc",
    "license": "apache-2.0",
}
_DENSENET = {**_CFG, "first_conv": "features.conv0", "classifier": "classifier"}
default_cfgs = generate_default_cfgs({"resnet18_cifar": _CFG, "wrn16_4": _CFG, "densenet40_12": _DENSENET})


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-18 for CIFAR: 11.2 M parameters, 0.56 G multiply-adds at 32 pixels."""
    args: dict[str, Any] = {"block": BasicBlock, "layers": (2, 2, 2, 2), **kwargs}
    return build_model_with_cfg(CifarResNet, "resnet18_cifar", pretrained, **args)


@register_model
def wrn16_4(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-16-4, or another `depth` and `width`: 2.75 M parameters, 0.39 G multiply-adds at 32 pixels."""
    return build_model_with_cfg(WideResNet, "wrn16_4", pretrained, **kwargs)


@register_model
def densenet40_12(pretrained: bool = False, **kwargs: Any) -> DenseNet:
    """DenseNet-BC of depth 40 with growth 12, or another `block_config` and `growth_rate`: 0.18 M parameters."""
    args: dict[str, Any] = {"block_config": (6, 6, 6), "growth_rate": 12, **kwargs}
    return build_model_with_cfg(CifarDenseNet, "densenet40_12", pretrained, **args)
