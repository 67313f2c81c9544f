"""Dense baseline nets: raw-audio nets and small image nets in timm's class API and registry.

Importing this package registers them, so `timm.create_model("soundnet8", num_classes=50)` works afterwards; `create`
is the same with clearer errors.
"""

from autosample.models._net import StackHead, StagedNet
from autosample.models._stack import ConvStack, ConvStage, Row, StackCfg
from autosample.models.cifar import CifarDenseNet, CifarResNet, WideResNet, densenet40_12, resnet18_cifar, wrn16_4
from autosample.models.ensemble import Ensemble
from autosample.models.factory import create
from autosample.models.small import ConvStack2d, Mlp, digitnet, freshnet, mlp784, mlp784_5
from autosample.models.waveform import ConvStack1d, m3, m5, m11, m18, musicdet, soundnet8, wave4

__all__ = [
    "create",
    "soundnet8",
    "musicdet",
    "m3",
    "m5",
    "m11",
    "m18",
    "wave4",
    "mlp784",
    "mlp784_5",
    "freshnet",
    "digitnet",
    "resnet18_cifar",
    "wrn16_4",
    "densenet40_12",
    "CifarDenseNet",
    "CifarResNet",
    "WideResNet",
    "Ensemble",
    "ConvStack1d",
    "ConvStack2d",
    "Mlp",
    "ConvStack",
    "ConvStage",
    "Row",
    "StackCfg",
    "StackHead",
    "StagedNet",
]
