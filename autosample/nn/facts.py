"""What a report tells of a compressed layer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What a report tells of a compressed layer; numbers are those of the weight alone, without biases.

    Attributes:
        method: Its preset.
        dense, stored: Weights of the dense layer, and numbers stored in their place.
        position_bits: Bits of all stored offsets and selections.
        multiplicity: Weights that one stored number serves, on average.
        notes: What else a reader should know.
    """

    method: str
    dense: int
    stored: int
    position_bits: int = 0
    multiplicity: float = 1.0
    notes: tuple[str, ...] = ()
