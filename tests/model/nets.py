"""A small net with layers of all kinds, for the tests of `convert_`."""

import torch
from torch import nn

from autosample import convert_
from autosample.model.report import Row
from autosample.nn import compressed_layers

NAMES = ["stem", "block.conv1", "block.conv2", "body.conv1", "head"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 16, 3)

    def forward(self, x):
        return self.conv2(torch.relu(self.norm(self.conv1(x))))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(16, 24, 5)

    def forward(self, x):
        return self.conv1(x)


class Net(nn.Module):
    """Layers of every kind, under names that share parts."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.body, self.head = nn.Conv2d(3, 16, 3), Block(), Body(), nn.Linear(24, 12)

    def forward(self, x):
        x = self.block(torch.relu(self.stem(x))).flatten(2)
        return self.head(self.body(x).mean(2))


def image(dtype=torch.float32):
    return torch.randn(2, 3, 9, 9, dtype=dtype)


def presets_of(model) -> dict[str, str]:
    return {name: layer.spec.preset for name, layer in compressed_layers(model).items()}


def converted(**options) -> set[str]:
    model = Net()
    convert_(model, **{"ratio": 4} | options)
    return set(compressed_layers(model))


def distance(a, b) -> float:
    return ((a - b).norm() / b.norm()).item()


def row(result, name) -> Row:
    return next(r for r in result.rows if r.name == name)
