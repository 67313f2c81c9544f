"""What a report says about a compressed layer."""

from dataclasses import dataclass


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
