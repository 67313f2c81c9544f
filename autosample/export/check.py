"""Checks of written files: outputs against eager torch on several inputs, size against what the model stores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.errors import ExportError
from autosample.export.formats import Run
from autosample.export.formats.calibration import Fidelity
from autosample.nn import execution
from autosample.system.difference import largest_difference

#: Largest allowed difference between a file's outputs and those of eager torch, relative to the largest output.
TOLERANCE = 1e-4
# Allowed size of a file besides the stored tensors: names and operators.
_SHARE, _FIXED = 1.15, 40_000


@dataclass(frozen=True)
class Exported:
    """Result of an export; prints as one line.

    Attributes:
        path: Path of the file.
        bytes: Size of the file.
        stored_bytes: Size that the model stores, as in `autosample.report`.
        error: Largest difference from the outputs of eager torch, relative to the largest output.
        absolute: The same difference, not relative.
        inputs: Number of inputs of different sizes that were compared.
        accuracy: Share of right answers in eager torch and in the file's runtime, if data was given.
        forms: How each sampled layer is written: `direct` (the weight is sampled when the file is loaded), `folded`
            (channel blocks added first) or `summed` (window sums).
        fidelity: With int8 arithmetic, how near the file is to the model on the calibration batches. `error`,
            `absolute` and `inputs` are of these batches then.
    """

    path: Path
    bytes: int
    stored_bytes: int
    error: float
    absolute: float
    inputs: int
    accuracy: tuple[float, float] | None = None
    forms: dict[str, str] | None = None
    fidelity: Fidelity | None = None

    def __str__(self) -> str:
        times = self.bytes / max(self.stored_bytes, 1)
        size = f"{self.bytes:,} bytes, {times:.2f} times the stored {self.stored_bytes:,}"
        text = f"{self.path}: {size}; largest error {self.error:.1e} relative, {self.absolute:.1e} absolute"
        text += f", on {self.inputs} inputs" if self.fidelity is None else f"; {self.fidelity}"
        if self.accuracy is None:
            return text
        return text + "; accuracy {:.2%} in torch, {:.2%} in the file".format(*self.accuracy)


class OversizeError(ExportError):
    """A file would be much larger than what the model stores."""


def check_size(path: Path, stored: int) -> None:
    """Raise `OversizeError` if a file is not compact."""
    size = path.stat().st_size
    if size > _SHARE * stored + _FIXED:
        raise OversizeError(
            f"the file has {size:,} bytes, more than {_SHARE} times the {stored:,} stored bytes plus {_FIXED:,}: pass "
            "int8_weights=True (--format onnx-int8-weights) for a quantised model, or dense=True for dense weights"
        )


def trial_inputs(args: tuple, axes: Sequence[dict[int, str]] | None) -> list[tuple]:
    """Inputs to compare outputs on: the example, random numbers like it, and other sizes along the dynamic axes."""
    generator = torch.Generator().manual_seed(0)
    sizes: list[tuple[int | None, float]] = [(None, 1.0)]
    if axes is not None:
        longer = any("length" in names.values() for names in axes)
        sizes += [(1, 1.0), (3, 1.37), (2, 0.81)] if longer else [(1, 1.0), (3, 1.0)]
    named = axes if axes is not None else [{} for _ in args]
    trials = [args]
    for batch, stretch in sizes:
        trials.append(tuple(_like(x, names, batch, stretch, generator) for x, names in zip(args, named, strict=True)))
    return trials


def _like(x: Tensor, names: dict[int, str], batch: int | None, stretch: float, generator: torch.Generator) -> Tensor:
    shape = list(x.shape)
    for axis, name in names.items():
        shape[axis] = round(shape[axis] * stretch) if name == "length" else batch or shape[axis]
    if not x.is_floating_point():  # indices of classes or words: only known ones are valid
        repeats = [-(-n // have) for n, have in zip(shape, x.shape, strict=True)]
        return x.repeat(repeats)[tuple(slice(n) for n in shape)]
    spread = float(x.std()) if x.numel() > 1 else 0.0
    return torch.randn(shape, generator=generator, dtype=x.dtype) * (spread or 1.0) + float(x.mean())


@torch.no_grad()
def largest_error(model: nn.Module, run: Run, trials: Iterable[tuple]) -> tuple[float, float, int]:
    """Relative and absolute largest difference of two functions, and how many inputs the model accepted."""
    relative = absolute = 0.0
    count = 0
    for args in trials:
        try:
            with execution("materialize"):  # compared with the definition
                expected = [t for t in tree_leaves(model(*(x.clone() for x in args))) if isinstance(t, Tensor)]
        except (RuntimeError, ValueError):
            if not count:
                raise
            continue  # too short for this model, which raises an error
        got, count = run(args), count + 1
        found = largest_difference(expected, got)
        relative, absolute = max(relative, found.relative), max(absolute, found.absolute)
    return relative, absolute, count


def check_right(written: nn.Module, run: Run, trials: Sequence[tuple]) -> None:
    """Raise `ExportError` unless a file computes the same as the model written to it."""
    error, _, _ = largest_error(written, run, trials)
    if not error <= TOLERANCE:
        raise ExportError(
            f"the file's outputs differ from torch's by {error:.2g} (relative to the largest), more than "
            f"{TOLERANCE:g}: please report this model"
        )


@torch.no_grad()
def accuracies(model: nn.Module, run: Run, data: Iterable) -> tuple[float, float]:
    """Share of right answers of a model and of a file, over batches `(x, y)`."""
    right, got, count = 0, 0, 0
    for x, y in data:
        right += int((model(x).argmax(1) == y).sum())
        got += int((run((x,))[0].argmax(1) == y).sum())
        count += len(y)
    if not count:
        raise ExportError("data must have at least one batch, got none: leave it out")
    return right / count, got / count
