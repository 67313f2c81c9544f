"""`export_onnx` and `export_pt2`: write a model to a compact file, checked and atomically."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autosample.deployment.verify import Example
from autosample.errors import ConversionError, ExportError
from autosample.export.check import Exported, accuracies, check_right, check_size, largest_error, trial_inputs
from autosample.export.formats import Format
from autosample.export.formats.calibration import Batches, fidelity, read_batches
from autosample.export.formats.onnx import Onnx
from autosample.export.formats.onnx_int8 import OnnxInt8
from autosample.export.formats.pt2 import Pt2
from autosample.export.portable import dense_twin, portable
from autosample.model.finite import not_finite
from autosample.system.extras import require
from autosample.system.files import whole
from autosample.system.progress import busy


def export_onnx(
    model: nn.Module,
    path: Path | str,
    example: Example,
    *,
    opset: int = Onnx.opset,
    dynamic: bool = True,
    int8_weights: bool = False,
    calibrate: Iterable | None = None,
    dense: bool = False,
    data: Iterable | None = None,
    **moved: Any,
) -> Exported:
    """Write a model as an ONNX file in standard operators that is as small as what the model stores.

    Norms are folded in. Layers that reuse work are written in that form. For other layers the file has the summary and
    the operators that sample the weight; onnxruntime runs these once, at load time. The file is checked: by onnx's
    checker, and against eager torch in onnxruntime, on the example and on random inputs of other sizes.

    Args:
        model: A model, converted or not, or the result of `deploy`. It is not changed.
        path: File to write; an existing file is replaced.
        example: An input of the usual size and batch, or a tuple of inputs; float32 or integers.
        opset: ONNX opset, 18 or newer.
        dynamic: Let the batch vary, and for signals `(B, C, T)` the length; else shapes are those of the example.
        int8_weights: Store summaries and weights at 256 levels each, evenly spaced between minimum and maximum, and
            compute in float32. Outputs change by the rounding; `Exported.error` gives the difference.
        calibrate: Compute with integers of 8 bits. Batches like the example to measure ranges of activations on:
            tensors, tuples of inputs, or pairs of inputs and labels; a few hundred examples are enough. The file is
            compared with the model on them (`Exported.fidelity`).
        dense: Write dense weights.
        data: Batches `(x, y)` to measure the accuracy before and after.

    Raises:
        ConversionError: The example is not a valid input.
        ExportError: torch cannot translate the model; `calibrate` is empty or does not fit; outputs are wrong; or the
            file is larger than 1.15 times what the model stores plus 40 kB, without `dense`. In all these cases nothing
            is written.
        MissingExtra: ONNX's packages are missing.
    """
    _check_moved(moved)
    form = Onnx(int8_weights=int8_weights, opset=opset)
    if calibrate is not None:
        form = OnnxInt8(int8_weights=int8_weights, opset=opset, calibrate=calibrate)
    return write_model(form, model, path, example, dynamic=dynamic, dense=dense, data=data)


def export_pt2(
    model: nn.Module,
    path: Path | str,
    example: Example,
    *,
    dynamic: bool = True,
    int8_weights: bool = False,
    dense: bool = False,
    data: Iterable | None = None,
    **moved: Any,
) -> Exported:
    """Write a model with `torch.export` as a `.pt2` file, which torch loads without autosample.

    The file is as small as what the model stores, and is checked like that of `export_onnx`. torch runs the graph
    unchanged: weights are sampled at every call, unless a compiler folds constants first. The file is a zip archive of
    tensors and JSON.

    Args:
        model, path, example, dynamic, int8_weights, dense, data: As for `export_onnx`.

    Raises:
        ConversionError, ExportError: As for `export_onnx`.
    """
    _check_moved(moved)
    return write_model(Pt2(int8_weights=int8_weights), model, path, example, dynamic=dynamic, dense=dense, data=data)


def write_model(
    form: Format,
    model: nn.Module,
    path: Path | str,
    example: Example,
    *,
    dynamic: bool = True,
    dense: bool = False,
    data: Iterable | None = None,
) -> Exported:
    """Write a model in any format, check the file, and only then move it to its path.

    Args:
        form: A format of `FORMATS`, possibly with other settings.
        model, path, example, dynamic, dense, data: As for `export_onnx`.

    Raises:
        ConversionError, ExportError, MissingExtra: As for `export_onnx`.
    """
    if form.extra:
        require(form.extra)
    _check_model(model, example)
    args, axes = _inputs(example, dynamic)
    form = form.prepared(args, axes)
    ready = (dense_twin if dense else portable)(model, args, rounding=form.rounding)
    trials = trial_inputs(args, axes)
    with busy(f"writing {path} and comparing it with torch"), whole(Path(path)) as partial:
        form.write(ready.model, partial, _batched(args, axes), axes)
        run, size = form.runner(partial), partial.stat().st_size
        if not dense:
            check_size(partial, ready.stored_bytes)
        near = None if form.calibration is None else fidelity(ready.reference, run, form.calibration)
        if near is None:
            check_right(ready.model, run, trials)
            error, absolute, count = largest_error(ready.reference, run, trials)
        else:
            error, absolute, count = *near.largest, near.examples
        done = Exported(Path(path), size, ready.stored_bytes, error, absolute, count, None, ready.forms, near)
        if data is not None:
            done = replace(done, accuracy=accuracies(ready.reference, run, data))
    return done


def _check_moved(moved: dict[str, Any]) -> None:
    """Raise `ExportError` for the option's name of version 0.1.0, and `TypeError` for unknown ones."""
    for name in moved:
        if name != "int8":
            raise TypeError(f"an export got an unexpected keyword argument {name!r}")
        raise ExportError(
            '"int8" is now called "int8_weights", which stores numbers at 256 levels: write int8_weights=True, or pass '
            "calibrate=batches to export_onnx for int8 arithmetic"
        )


def _check_model(model: nn.Module, example: Example) -> None:
    tensors = example if isinstance(example, tuple) else (example,)
    if not all(isinstance(x, Tensor) for x in tensors):
        raise ConversionError(
            f"export needs an example input, got {type(example).__name__}: pass a tensor, or a tuple of tensors"
        )
    if bad := not_finite(model):
        raise ExportError(f'a model to export must be finite, got NaN or infinity in "{bad}": train it again')


def dynamic_batches(calibrate: Iterable, example: Example) -> Batches:
    """Batches to calibrate on, checked, for a file with dynamic axes."""
    return read_batches(calibrate, *_inputs(example, True))


def _inputs(example: Example, dynamic: bool) -> tuple[tuple[Tensor, ...], tuple[dict[int, str], ...] | None]:
    """The example's tensors, and the names of their dynamic axes."""
    args = example if isinstance(example, tuple) else (example,)
    args = tuple(x.detach().cpu() for x in args)
    if not dynamic:
        return args, None
    signal = {0: "batch", 2: "length"}
    return args, tuple(signal if x.dim() == 3 and x.is_floating_point() else {0: "batch"} for x in args)


def _batched(args: tuple[Tensor, ...], axes: object) -> tuple[Tensor, ...]:
    """The example twice: torch treats a batch of one as a constant."""
    return args if axes is None else tuple(torch.cat([x, x]) if len(x) == 1 else x for x in args)
