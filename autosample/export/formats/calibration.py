"""Batches that a file with int8 arithmetic is calibrated on: what may be passed, and how near the file then is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.errors import ExportError
from autosample.export.formats.base import Axes, Run
from autosample.nn import execution
from autosample.system.difference import Difference, largest_difference, relative_error

#: Inputs of a model, batch after batch.
Batches = tuple[tuple[Tensor, ...], ...]
_FIX = "pass calibrate=batches like the example (--calibrate DATA)"


@dataclass(frozen=True)
class Fidelity:
    """How near a file's outputs are to those of the float32 model, on the batches that it was calibrated on.

    Attributes:
        error: `‖y − ŷ‖ / ‖y‖` of the first output.
        same: Share of examples whose largest output is the same, or `None` if outputs are not classes.
        examples: Number of examples.
        largest: The largest difference, over all outputs.
    """

    error: float
    same: float | None
    examples: int
    largest: Difference

    def __str__(self) -> str:
        same = "" if self.same is None else f", the same class in {self.same:.2%}"
        return f"on {self.examples} calibration examples {self.error:.2%} relative error{same}"


def read_batches(calibrate: Iterable[Any] | None, args: Sequence[Tensor], axes: Axes) -> Batches:
    """The inputs in `calibrate`: tensors, tuples of inputs, or pairs of inputs and labels.

    Args:
        calibrate: Any iterable.
        args: The example's tensors; shapes must be theirs, apart from dynamic axes.
        axes: The dynamic axes of each.

    Raises:
        ExportError: There are no batches, or one is not an input of the model or not finite.
    """
    if calibrate is None:
        raise ExportError(
            f"int8 arithmetic needs data to measure ranges on, got none: {_FIX}, or use the format onnx-int8-weights"
        )
    if isinstance(calibrate, Tensor | str) or not isinstance(calibrate, Iterable):
        raise ExportError(f"calibrate must be batches of inputs, got one {type(calibrate).__name__}: pass a list")
    free = [set() for _ in args] if axes is None else [set(names) for names in axes]
    made = tuple(_batch(item, args, free) for item in calibrate)
    if not made:
        raise ExportError(f"calibrate must have at least one batch, got none: {_FIX}")
    return made


def _batch(item: Any, args: Sequence[Tensor], free: Sequence[set[int]]) -> tuple[Tensor, ...]:
    tensors = item if isinstance(item, tuple | list) else (item,)
    if tensors and isinstance(tensors[0], tuple | list):
        tensors = tensors[0]  # the inputs, before labels
    elif len(args) == 1:
        tensors = tensors[:1]
    if len(tensors) != len(args) or not all(isinstance(x, Tensor) for x in tensors):
        got = [type(x).__name__ for x in tensors]
        raise ExportError(f"a batch to calibrate on must hold {len(args)} tensors, got {', '.join(got)[:80]}: {_FIX}")
    return tuple(_input(x, like, axes) for x, like, axes in zip(tensors, args, free, strict=True))


def _input(x: Tensor, like: Tensor, free: set[int]) -> Tensor:
    same = x.dim() == like.dim() and all(
        i in free or a == b for i, (a, b) in enumerate(zip(x.shape, like.shape, strict=True))
    )
    if not same or x.is_floating_point() != like.is_floating_point() or not x.numel():
        wanted = ", ".join("any" if i in free else str(size) for i, size in enumerate(like.shape))
        raise ExportError(
            f"a batch to calibrate on must have the example's shape ({wanted}) and type {like.dtype}, got "
            f"{tuple(x.shape)} and {x.dtype}: {_FIX}"
        )
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ExportError(f"batches to calibrate on must be finite, got NaN or infinity: {_FIX}")
    return x.detach().cpu().to(like.dtype)


@torch.no_grad()
def fidelity(model: nn.Module, run: Run, batches: Batches) -> Fidelity:
    """Run a model and a file on the batches.

    Raises:
        ExportError: The file computes something else than the model.
    """
    pairs = []
    for args in batches:
        with execution("materialize"):
            expected = [t for t in tree_leaves(model(*(x.clone() for x in args))) if isinstance(t, Tensor)]
        pairs.append((expected, run(args)))
    largest = [largest_difference(expected, got) for expected, got in pairs]
    worst = Difference(*(max(numbers) for numbers in zip(*largest, strict=True)))
    first, found = (torch.cat([pair[side][0].flatten(1) for pair in pairs]) for side in (0, 1))
    error = relative_error(first, found)
    if not error < 1:
        raise ExportError(
            f"with 8 bits outputs differ from the model's by {error:.2g} of their size: calibrate with real inputs, "
            "or use onnx-int8-weights"
        )
    classes = first.shape[1] > 1 and all(expected[0].dim() == 2 for expected, _ in pairs)
    same = float((first.argmax(1) == found.argmax(1)).float().mean()) if classes else None
    return Fidelity(error, same, len(first), worst)
