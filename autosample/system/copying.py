"""Deep copies of modules."""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

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


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
