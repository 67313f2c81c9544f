"""What a forward pass costs in hardware, by the metrics of Deep k-Means (Wu et al. 2018)."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from autosample.nn import Compressed
from autosample.reuse.deployed import Deployed

# The paper's weight of a bit that is read, in full adders.
_READ = 6


@dataclass(frozen=True)
class Energy:
    """Costs of one forward pass.

    Attributes:
        adders: Arithmetic [one-bit full adders].
        weight_bits, activation_bits: Bits that are read of stored numbers, and of inputs.
    """

    adders: int
    weight_bits: int
    activation_bits: int

    @property
    def total(self) -> int:
        """Arithmetic, and six times what is read [full adders]."""
        return self.adders + _READ * (self.weight_bits + self.activation_bits)


def adders(size: int, weight_bits: int, activation_bits: int) -> int:
    """Full adders of a dot product of `size` numbers: `D·B_w·B_x + (D − 1)·(B_x + B_w + ⌈log₂ D⌉ − 1)`."""
    bits = weight_bits + activation_bits + (size - 1).bit_length() - 1
    return size * weight_bits * activation_bits + (size - 1) * bits


def energy(macs: int, size: int, dense: int, stored: int, weight_bits: int, activation_bits: int) -> Energy:
    """Energy of a layer that computes `macs` products, in dot products of `size` numbers.

    Each stored number is read once at every place where the layer is applied, `N_w = macs / dense` times, however many
    weights it stands for: `N_w·stored·B_w` bits. Each input is read once for every product it is in: `macs·B_x` bits.

    Args:
        macs: Multiply-adds of a forward pass.
        size: Length of a dot product: the weights of a filter.
        dense, stored: Weights of the layer, and the numbers stored instead; offsets do not count.
        weight_bits, activation_bits: Bits of a stored number and of an input.
    """
    return Energy(
        adders=macs // size * adders(size, weight_bits, activation_bits),
        weight_bits=macs * stored // dense * weight_bits,
        activation_bits=macs * activation_bits,
    )


def layer_energy(layer: nn.Module, macs: int | None) -> Energy | None:
    """Energy of a convolution or linear layer; `None` for others, and without a count of multiply-adds.

    Sum-product layers have none: the metrics are those of dot products. Nor have deployed layers, whose numbers have
    other forms.

    Numbers at evenly spaced levels count with the bits of a level. Codebooks and all else count as they are computed.
    """
    filters = getattr(layer, "out_channels", getattr(layer, "out_features", 0))
    if macs is None or not filters or isinstance(layer, Deployed):
        return None
    if isinstance(layer, Compressed):
        if not layer.by_weight:
            return None
        facts, numbers = layer.facts(), getattr(layer, layer.coded[0])
        dense, stored, quantizer = facts.dense, facts.stored, layer.quantizer(layer.coded[0])
    else:
        numbers: Any = layer.weight
        dense = stored = numbers.numel()
        quantizer = None
    width = 8 * numbers.element_size()
    bits = width if quantizer is None or quantizer.method == "codebook" else quantizer.bits
    return energy(macs, max(dense // filters, 1), max(dense, 1), stored, bits, width)
