"""The weight of a compressed layer as its users read it: computed from the stored numbers, so writing to it is lost."""

from typing import Any

import torch
from torch import Tensor

from autosample.errors import ConversionError

# these write nothing, although their names end like those that do
_HARMLESS = {"requires_grad_"}
_WRITERS = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__set__"}


class Computed(Tensor):
    """A tensor that cannot be written in place. Whatever is computed from it is an ordinary tensor.

    Raises:
        ConversionError: An operation would write to it.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        target = args[0] if args else kwargs.get("tensor", kwargs.get("input"))
        writes = name in _WRITERS or (name.endswith("_") and not name.startswith("__") and name not in _HARMLESS)
        if isinstance(kwargs.get("out"), cls) or (writes and isinstance(target, cls)):
            raise ConversionError(
                "the weight of a compressed layer is computed from its stored numbers, and writing to it is lost "
                f"(got {name}): assign layer.weight = w, which fits the numbers to w"
            )
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **kwargs)
            # `weight.data.copy_(w)` is lost too
            return out.as_subclass(cls) if name == "__get__" and func.__self__ is Tensor.data else out

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self.as_subclass(Tensor).__deepcopy__(memo)


def computed(weight: Tensor) -> Tensor:
    """The weight as a tensor that refuses writes; unchanged where a graph is recorded."""
    recording = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    return weight if recording else weight.as_subclass(Computed)
