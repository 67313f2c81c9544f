"""Small nets to export, one of each kind, with numbers where training would have left them."""

import torch
from torch import Tensor, nn

import autosample
import autosample.models
from autosample.experiments.bench.sides import _liven

NETS = ("signal", "image")


def small_net(kind: str, preset: str, **changes) -> tuple[nn.Module, Tensor]:
    """A net of four layers on short signals or small images, converted and hardened, and an input of batch 1.

    `mixed` is a convolution of each kind and two linear layers, on signals of one length.
    """
    torch.manual_seed(0)
    if kind == "mixed":
        convs: list[nn.Module] = [nn.Conv1d(2, 32, 16, 2), nn.Conv2d(32, 64, 3, 2, 1)]
        norms: list[nn.Module] = [nn.BatchNorm1d(32), nn.BatchNorm2d(64)]
        middle: nn.Module = nn.Sequential(nn.MaxPool1d(2), nn.Unflatten(2, (12, 12)))
        x = torch.randn(1, 2, 590)
    elif kind == "signal":
        convs = [nn.Conv1d(2, 32, 16, 2), nn.Conv1d(32, 64, 8, padding=4)]
        norms = [nn.BatchNorm1d(32), nn.BatchNorm1d(64)]
        middle = nn.MaxPool1d(2)
        x = torch.randn(1, 2, 600)
    else:
        convs = [nn.Conv2d(3, 32, 5, padding=2), nn.Conv2d(32, 64, 3, 2, 1)]
        norms = [nn.BatchNorm2d(32), nn.BatchNorm2d(64)]
        middle = nn.MaxPool2d(2)
        x = torch.randn(1, 3, 24, 24)
    blocks = [part for conv, norm in zip(convs, norms, strict=True) for part in (conv, norm, nn.ReLU(), middle)][:-1]
    pool = nn.AdaptiveAvgPool1d(1) if kind == "signal" else nn.AdaptiveAvgPool2d(1)
    net = nn.Sequential(*blocks, pool, nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5)).eval()
    learned = {"options": {"afford": 10}} if preset == "autosample" else {}
    if preset != "dense":
        size = {} if "spatial" in changes.get("options", {}) else {"ratio": 8}
        autosample.convert_(net, preset, **(size | learned | changes))
        autosample.harden_(net)
    _liven(net)
    return net.eval(), x
