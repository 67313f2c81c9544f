"""ResNets for images of 32 pixels: He et al. 2016, https://arxiv.org/abs/1512.03385, with a stem for CIFAR."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn


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


default_cfgs = generate_default_cfgs(
    {
        "resnet18_cifar": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "crop_pct": 1.0,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "apache-2.0",
        }
    }
)


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-18 for CIFAR: 11.2 M parameters, 0.56 G multiply-adds at 32 pixels."""
    args: dict[str, Any] = {"block": BasicBlock, "layers": (2, 2, 2, 2), **kwargs}
    return build_model_with_cfg(CifarResNet, "resnet18_cifar", pretrained, **args)
