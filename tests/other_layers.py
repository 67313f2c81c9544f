"""Layers that reuse nothing: another method's, and summary layers of other kinds than convolutions along signals and
images."""

import math

import pytest
import torch
from torch import Tensor, nn

from autosample import convert_, harden_
from autosample.nn import Compressed
from autosample.sampling.rules import RULES


class Products(Compressed):
    """Filters are products of two thin matrices, some of them switched off by a mask that is stored as it is."""

    coded = ("left", "right")
    prefix = "Product"

    @classmethod
    def planned(cls, spec, shape, bits=32):
        return 2 * (shape[0] + math.prod(shape[1:]))

    def make(self, like, name):
        filters, rest = like.shape[0], like[0].numel()
        self.left = nn.Parameter(torch.randn(filters, 2, device=like.device, dtype=like.dtype) / 4)
        self.right = nn.Parameter(torch.randn(2, rest, device=like.device, dtype=like.dtype) / 4)
        self.register_buffer("mask", (torch.arange(rest, device=like.device) % 5 > 0).to(like.dtype))

    def compose(self, tensors):
        return ((tensors["left"] @ tensors["right"]) * self.mask).view(self.shape)


def register_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the table for the length of a test."""
    monkeypatch.setitem(RULES, "products", Products)


class Volumes(nn.Module):
    """A 3-D convolution, then transposed ones along an image and a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(2, 16, (2, 3, 3), padding=(0, 1, 1))
        self.norm = nn.BatchNorm3d(16)
        self.image = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.signal = nn.ConvTranspose1d(8, 6, 5, 2, output_padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.image(self.norm(self.volume(x)).relu().amax(2))
        return self.head(self.signal(y.flatten(2)).mean(2))


def volumes(spec: str) -> tuple[nn.Module, Tensor]:
    """Such a net, converted and hardened, and an input."""
    torch.manual_seed(0)
    model = Volumes().eval()
    convert_(model, spec, ratio=4)
    return harden_(model).eval(), torch.randn(1, 2, 3, 6, 6)


def images(spec: str) -> tuple[nn.Module, Tensor]:
    """Convolutions with norms, and a linear layer, converted and hardened, and an input."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 48, 3, 2)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 40)).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.running_mean)
    convert_(model, spec, ratio=4)
    return harden_(model).eval(), torch.randn(1, 3, 12, 12)
