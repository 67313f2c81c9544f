"""Check that a changed model still gives the same outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from autosample.errors import ConversionError
from autosample.system.difference import largest_difference

Example = Tensor | tuple[Any, ...]
# Allowed difference from the outputs of the hardened model, relative to the largest.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF = 5e-2  # for all other types


def arguments(example: Example) -> tuple:
    """The example as arguments; copies, because the model may start with an in-place operation."""
    return tree_map_only(Tensor, torch.clone, example if isinstance(example, tuple) else (example,))


def outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """All floating-point tensors that the model returns; random numbers on the CPU are the same in each call."""
    torch.default_generator.manual_seed(0)
    out = model(*arguments(example))
    return [t for t in tree_leaves(out) if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())]


def is_same(expected: Sequence[Tensor], got: Sequence[Tensor]) -> bool:
    """Whether outputs are close enough for two exact ways to compute them."""
    return largest_difference(expected, got).relative <= _allowed(expected)


def checked_error(expected: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest expected number of the same output.

    Raises:
        ConversionError: The outputs differ.
    """
    error = largest_difference(expected, got).relative
    if not error <= _allowed(expected):
        raise ConversionError(
            f"deploying changed the outputs (relative difference {error:.2g}): please report this model"
        )
    return error


def _allowed(expected: Sequence[Tensor]) -> float:
    return max((_TOLERANCE.get(t.dtype, _HALF) for t in expected), default=0.0)
