"""The weight of a compressed layer as its users read it: computed from the stored numbers, so writing to it is lost."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autosample.errors import ConversionError
from autosample.system.warning import warn

# An assigned weight that is fitted with a larger relative error is worth a warning.
_FAR = 0.05
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
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    recording = torch.compiler.is_compiling() or tracing or torch._C._are_functorch_transforms_active()
    return weight if recording else weight.as_subclass(Computed)


class ComputedWeight(nn.Module):
    """A layer whose `weight` is computed: reading computes it, assigning fits the stored numbers."""

    coded: ClassVar[tuple[str, ...]]
    shape: tuple[int, ...]

    @property
    def weight(self) -> Tensor:
        """The dense weight in torch's shape, differentiable in everything that the layer learns.

        Assigning to it fits the stored numbers (`fit_`). Writing to it in place raises `ConversionError`.
        """
        return computed(self.dense_weight())

    @property
    def has_weight(self) -> bool:
        """Whether a dense layer of the same class computes the same: with one weight for all inputs and places."""
        return True

    def dense_weight(self) -> Tensor:
        """What `weight` shows, as an ordinary tensor.

        Raises:
            ConversionError: The layer has none.
        """
        raise NotImplementedError

    def fit_(self, weight: Tensor) -> float:
        """Fit the stored numbers to a dense weight; returns the relative error `‖W − Ŵ‖/‖W‖`."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and isinstance(value, Tensor):
            self._assign(value)
        else:
            super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name == "weight_orig":  # torch.nn.utils.prune
            raise ConversionError("pruning needs a stored weight, got one that is computed: call densify_ first")
        super().register_parameter(name, param)

    def _assign(self, weight: Tensor) -> None:
        if tuple(weight.shape) != self.shape:
            raise ConversionError(
                f"weight must have the layer's shape, got {tuple(weight.shape)} for {self.shape}: convert another layer"
            )
        error = self.fit_(weight.detach())
        if error > _FAR:
            warn(
                f"the stored numbers fit the assigned weight with a relative error of {error:.2f}: train the layer, or "
                "assign before convert_ and leave the layer dense"
            )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        """Load a state. A dense weight is an error, also where torch would drop it (`strict=False`)."""
        if f"{prefix}weight" in state_dict and not any(f"{prefix}{name}" in state_dict for name in self.coded):
            del state_dict[f"{prefix}weight"]
            errors.append(
                f'"{prefix}weight" is dense and this layer is compressed: load it before convert_(warm_start=True)'
            )
            strict = False
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
