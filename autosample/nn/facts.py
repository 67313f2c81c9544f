"""What a report says about a compressed layer."""

import math
from dataclasses import dataclass
from typing import ClassVar

from autosample.nn.quantised import QuantisedParameters
from autosample.sampling.spec import Spec


@dataclass(frozen=True)
class Facts:
    """What a report says about a compressed layer; counts are of the weight alone, without biases.

    Attributes:
        method: Name of its preset.
        dense, stored: Count of dense weights, and of the numbers stored instead.
        position_bits: Bits of all stored offsets, selections and learners of signs.
        multiplicity: Average number of weights per stored number.
        notes: More remarks for the reader.
    """

    method: str
    dense: int
    stored: int
    position_bits: int = 0
    multiplicity: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operations:
    """Operations of a layer in one forward pass, by its definition; norms and biases are not counted.

    Attributes:
        macs: Multiply-adds as a dense layer.
        multiplications, additions: Those of the method.
    """

    macs: int
    multiplications: int
    additions: int


class Reported(QuantisedParameters):
    """A layer that a report tells about."""

    coded: ClassVar[tuple[str, ...]]
    spec: Spec
    shape: tuple[int, ...]

    def facts(self) -> Facts:
        """What a report says about the layer."""
        dense = math.prod(self.shape)
        numbers = sum(getattr(self, name).numel() for name in self.coded)
        return Facts(self.spec.preset, dense, numbers, multiplicity=dense / max(numbers, 1), notes=self.coding_notes())

    def operations(self, counted: int, read: int, made: int) -> Operations:
        """Operations of a forward pass.

        Args:
            counted: Multiply-adds that were counted in it, without those that make the weight.
            read, made: Count of numbers in the layer's inputs and outputs.
        """
        return Operations(counted, counted, counted)

    def coding_notes(self) -> tuple[str, ...]:
        """How the first coded parameter is quantised, if it is."""
        quantizer = self.quantizer(self.coded[0])
        return () if quantizer is None else (quantizer.told,)
