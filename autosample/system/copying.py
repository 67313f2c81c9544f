"""Deep copies of modules."""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model) -> Model:
    """A deep copy of a model.

    torch refuses to copy a tensor with a history, such as the weight that `torch.nn.utils.weight_norm` keeps after a
    forward pass. The copy holds its values.
    """
    computed = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in _tensors(vars(module))
        if not tensor.is_leaf
    }
    return copy.deepcopy(model, computed)  # pyright: ignore[reportArgumentType]


def without_values(model: Model) -> Model:
    """A deep copy whose tensors are on the meta device: they have shapes and types, but take no memory."""
    own = (tensor for module in model.modules() for tensor in _tensors(vars(module)) if not is_lazy(tensor))
    empty = {id(tensor): _empty(tensor) for tensor in own}
    return copy.deepcopy(model, empty)  # pyright: ignore[reportArgumentType]


def _empty(tensor: Tensor) -> Tensor:
    twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
