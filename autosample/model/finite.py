"""Whether the numbers of a model are finite."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def not_finite(model: nn.Module) -> str | None:
    """Name of the first tensor that spoils a model: a parameter with NaN or infinity, or a buffer with NaN.

    Buffers may hold infinity, as masks of attention do. Tensors on the meta device count as finite.
    """
    buffers = {name: buffer.isnan() for name, buffer in model.named_buffers() if _is_number(buffer)}
    return first_not_finite(dict(model.named_parameters())) or next((n for n, b in buffers.items() if b.any()), None)


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a number that is not finite, or `None`."""
    return next((name for name, tensor in tensors.items() if not is_finite(tensor)), None)


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    return not _is_number(tensor) or bool(torch.isfinite(tensor).all())


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.is_meta
