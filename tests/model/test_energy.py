"""The energy metrics of Deep k-Means in reports, against the paper's formulas written out."""

import math

import pytest
import torch
from torch import nn

from autosample import convert_, deploy, quantize_, report
from autosample.model.energy import Energy, adders, energy


@pytest.mark.parametrize(("size", "weight_bits", "activation_bits"), [(1, 4, 8), (2, 8, 8), (27, 32, 32), (64, 3, 5)])
def test_full_adders_of_a_dot_product(size, weight_bits, activation_bits):
    bits = activation_bits + weight_bits + math.ceil(math.log2(size)) - 1
    expected = size * weight_bits * activation_bits + (size - 1) * bits
    assert adders(size, weight_bits, activation_bits) == expected


@pytest.mark.parametrize("preset", ["dense", "folded", "wsnet", "strassen"])
def test_a_deployed_net_has_a_report_whatever_the_forms_of_its_layers(preset):
    net, x = (
        nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 1)).eval(),
        torch.ones(1, 64, 8, 8),
    )
    if preset != "dense":
        convert_(net, preset, ratio=8)
    deployed = deploy(net, x, measure=False)
    result = report(deployed, x)
    known = all(isinstance(layer, nn.Conv2d) for layer in (deployed[0], deployed[2]))
    assert (result.energy is not None) == known


def test_by_hand():
    """A 3×3 convolution from 2 to 4 channels on a map of 5×5 places: 100 dot products of 18 numbers."""
    cost = energy(100 * 18, 18, 4 * 18, 10, 4, 8)
    assert cost == Energy(100 * (18 * 4 * 8 + 17 * (12 + 5 - 1)), 25 * 10 * 4, 100 * 18 * 8)
    assert cost.total == cost.adders + 6 * (25 * 10 * 4 + 100 * 18 * 8)


def test_a_dense_net():
    """Each weight is read at every place, and each input as often as it is multiplied."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(100, 7))
    result = report(net, torch.zeros(1, 2, 5, 5))
    conv, linear, rest = result.rows
    assert (conv.adders, conv.weight_bits, conv.activation_bits) == (
        100 * (18 * 32 * 32 + 17 * (64 + 5 - 1)), 25 * 72 * 32, 1800 * 32
    )  # fmt: skip
    assert (linear.adders, linear.weight_bits, linear.activation_bits) == (
        7 * (100 * 32 * 32 + 99 * (64 + 7 - 1)), 700 * 32, 700 * 32
    )  # fmt: skip
    assert rest.adders is None
    assert result.energy == Energy(
        conv.adders + linear.adders,
        conv.weight_bits + linear.weight_bits,
        conv.activation_bits + linear.activation_bits,
    )
    assert result.total().adders == result.energy.adders
    assert "full adders" in str(result)
    assert report(net).energy is None


@pytest.mark.parametrize("preset", ["kmeans", "wsnet", "autosample", "folded", "hashednet"])
@pytest.mark.parametrize("method", ["", "linear", "codebook"])
def test_a_compressed_layer(preset, method):
    """The arithmetic of a dense layer at the bits of its levels; stored numbers are read instead of weights."""
    net, x = nn.Sequential(nn.Conv2d(8, 16, 3)), torch.zeros(1, 8, 6, 6)
    convert_(net, preset, ratio=4)
    if method:
        quantize_(net, 4, method=method)
    bits = 4 if method == "linear" else 32
    row = report(net, x).rows[0]
    stored = sum(getattr(net[0], name).numel() for name in net[0].coded if getattr(net[0], name) is not None)
    assert row.adders == 16 * 16 * (72 * bits * 32 + 71 * (32 + bits + 7 - 1))
    assert row.weight_bits == 16 * stored * bits
    assert row.activation_bits == 16 * 16 * 72 * 32


def test_layers_without_dot_products_have_none():
    net, x = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)), torch.zeros(1, 8, 6, 6)
    convert_(net, "strassen", options={"products": 1}, include=["0"])
    result = report(net, x)
    assert (result.rows[0].adders, result.rows[0].multiplications) == (None, 16 * 16)
    assert result.rows[1].adders is not None
    assert result.energy is None  # a part of it would look like a gain


def test_strides_groups_and_transposed_convolutions():
    grouped = report(nn.Conv2d(8, 16, 3, stride=2, groups=4), torch.zeros(1, 8, 9, 9)).rows[0]
    assert grouped.adders == 16 * 16 * adders(18, 32, 32)
    assert grouped.weight_bits == 16 * 288 * 32
    back = report(nn.ConvTranspose2d(8, 16, 2, stride=2), torch.zeros(1, 8, 5, 5)).rows[0]
    assert back.weight_bits == 25 * 512 * 32
    assert back.activation_bits == 25 * 512 * 32
