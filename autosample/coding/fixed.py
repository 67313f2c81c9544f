"""A few numbers that are stored as whole multiples of a step, in 16 bits: learned shares and small learners.

They are used at these multiples while they learn, so what is saved computes the same. Compilers leave out casts to half
precision and back, but not a rounding to whole numbers.
"""

import torch
from jaxtyping import Float, Int16
from torch import Tensor

from autosample.coding.straight import straight

_STEP = 2.0**-12
_MOST = 2**15 - 1


def at_steps(numbers: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The numbers as a file holds them, from −8 to 8; gradients pass unchanged."""
    return straight(numbers, (numbers.detach() / _STEP).round().clamp(-_MOST, _MOST) * _STEP)


def to_steps(numbers: Float[Tensor, "*shape"]) -> Int16[Tensor, "*shape"]:
    """What a file holds."""
    return (numbers.detach() / _STEP).round().clamp(-_MOST, _MOST).to(torch.int16)


def from_steps(steps: Int16[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The inverse of `to_steps`, in float32."""
    return steps.float() * _STEP
