"""Calling a model with the user's example."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from autosample.errors import AutosampleError, ConversionError, one_line


@contextmanager
def trying(example: Any) -> Iterator[None]:
    """Turn whatever a model raises inside into an error about the example.

    Raises:
        ConversionError: The model cannot be called with this example.
    """
    try:
        yield
    except AutosampleError:
        raise
    except Exception as error:  # a model can raise anything
        shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
        raise ConversionError(
            f"the example must be an input of the model, got shape {' and '.join(shapes)} ({one_line(error)[:150]}): "
            "pass the shape it was made for, with the batch first"
        ) from error
