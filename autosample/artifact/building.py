"""Builds the bare model, without its weights, that a saved one is loaded into."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autosample.artifact.config import Source
from autosample.errors import DAMAGED, ArtifactError, AutosampleError, one_line

Factory = Callable[..., nn.Module]

# Buffers that are created with values may take this much memory [bytes].
_LARGEST_BUFFERS = 1 << 30
# What a call of an operation costs, in numbers that it could have made.
_CALL = 8000
_LARGER = "the model would be far larger than the tensors in its file"


@dataclass(frozen=True)
class Budget:
    """How large a model may be that a file describes: decided before it is built, and checked as it is built.

    Real models stay far below: they have one or two modules per tensor, and at most some hundred weights per byte.

    Attributes:
        modules: Number of modules.
        numbers: Numbers in parameters and persistent buffers.
        work: Numbers that tensor operations may make while a constructor runs; each call counts as
            some thousand more.
    """

    modules: int
    numbers: int
    work: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Budget":
        """The budget that the tensors of a file allow."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        filled = sum(tensor.numel() > 0 for tensor in tensors.values())
        return cls(500 + 3 * filled, (1 << 25) + 500 * size, (1 << 27) + 4000 * size)


class _TooLarge(Exception):
    """The model is larger than the tensors in its file allow."""


class _Work(TorchDispatchMode):
    """Counts the numbers that operations make, and stops above a limit: a large one before its memory is touched."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = (t.numel() for t in tree_leaves(made) if isinstance(t, Tensor) and not t.is_meta)
        self.left -= _CALL + (0 if func.is_view else sum(sizes))
        if self.left < 0:
            raise _TooLarge
        return made


def build(source: Source, factory: Factory | None, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The bare model in evaluation mode, its parameters on the meta device.

    Persistent buffers may be there too; other buffers have their values.

    Args:
        source: Name and arguments of the model.
        factory: The user's factory, if given.
        tensors: Those of its file; far larger models are refused before they are built.

    Raises:
        ArtifactError: There is no such model, it needs a factory, or it cannot be built.
    """
    make, budget = _maker(source, factory), Budget.of(tensors)
    with torch.random.fork_rng([]):
        model = _on_meta(make, budget)
        if model is None or _lacks_values(model):
            with _bare_parameters(budget), _Work(budget.work):
                model = _made(make)
    numbers = sum(t.numel() for t in (*model.parameters(), *model.buffers()) if not is_lazy(t))
    if numbers > budget.numbers:
        raise ArtifactError(f"{_LARGER} (it would have {numbers:,} numbers): {DAMAGED}")
    return model.eval()


def _maker(source: Source, factory: Factory | None) -> Callable[[], nn.Module]:
    if source.kind == "factory":
        if factory is None:
            wanted = ", ".join(sorted(source.arguments))[:200] or "no arguments"
            raise ArtifactError(
                f"this model was saved with a factory ({source.name[:80]!r}): pass factory= (--factory MODULE:NAME), a "
                f"function that takes {wanted} and returns the dense model"
            )
        return lambda: factory(**source.arguments)
    if factory is not None:
        return lambda: factory(**source.arguments)
    from autosample.models import create

    return lambda: create(source.name, **_tuples(source.arguments))


def _tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples; models need them more often than lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def _on_meta(make: Callable[[], nn.Module], budget: Budget) -> nn.Module | None:
    """The model on the meta device, where nothing takes memory; `None` if it cannot be built there."""
    try:
        with torch.device("meta"), _bounded(budget), _Work(budget.work):
            return _made(make)
    except ArtifactError as error:
        if isinstance(error.__cause__, NotImplementedError | RuntimeError) and "meta" in str(error.__cause__).lower():
            return None  # its constructor reads values
        raise


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    try:
        model = make()
    except AutosampleError as error:
        raise ArtifactError(f"the model cannot be built: {one_line(error)}") from error
    except _TooLarge as error:
        raise ArtifactError(f"{_LARGER}: {DAMAGED}") from error
    except Exception as error:  # arguments from a file can make a constructor raise anything
        text = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise ArtifactError(f"the model cannot be built with its arguments ({text}): check them") from error
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"a factory must return an nn.Module, got {type(model).__name__}: return the dense model")
    return model


def _lacks_values(model: nn.Module) -> bool:
    """Whether the model needs tensors that no file holds: other buffers, or tensors in plain attributes."""
    lacking, size = False, 0
    for module in model.modules():
        plain = list(_tensors_in(vars(module).values()))
        passing = [module._buffers[name] for name in module._non_persistent_buffers_set]
        lacking |= any(b is not None and b.is_meta and b.numel() > 0 for b in [*passing, *plain])
        size += sum(b.nbytes for b in [*module._buffers.values(), *plain] if b is not None)
    if lacking and size > _LARGEST_BUFFERS:
        raise ArtifactError(
            f"the buffers of a model may take at most {_LARGEST_BUFFERS >> 20} MiB, got {size >> 20}: pass a "
            "factory= that makes them on the CPU"
        )
    return lacking


def _tensors_in(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))


@contextmanager
def _bounded(budget: Budget) -> Iterator[None]:
    """Stop building a model in this thread if it has more modules than allowed."""
    me, count = threading.get_ident(), [0]

    def hook(module: nn.Module, name: str, child: nn.Module | None) -> None:
        if threading.get_ident() == me:
            count[0] += 1
            if count[0] > budget.modules:
                raise _TooLarge

    handle = register_module_module_registration_hook(hook)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _bare_parameters(budget: Budget) -> Iterator[None]:
    """Move parameters to the meta device when they are registered, so filling them costs nothing."""
    me = threading.get_ident()

    def hook(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        lazy = isinstance(parameter, nn.UninitializedParameter)
        if parameter is None or parameter.is_meta or lazy or threading.get_ident() != me:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(hook)  # pyright: ignore[reportArgumentType]
    try:
        with _bounded(budget):
            yield
    finally:
        handle.remove()
