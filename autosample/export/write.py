"""`export_onnx` and `export_pt2`: a model into a file that is compact, checked, and whole or not there at all."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from autosample.deployment.verify import Example
from autosample.errors import ConversionError
from autosample.export.check import Exported, accuracies, check_right, check_size, largest_error, trial_inputs
from autosample.export.formats import Format
from autosample.export.formats.onnx import Onnx
from autosample.export.formats.pt2 import Pt2
from autosample.export.portable import Portable, dense_twin, portable
from autosample.system.extras import require
from autosample.system.files import whole


def export_onnx(
    model: nn.Module,
    path: Path | str,
    example: Example,
    *,
    opset: int = Onnx.opset,
    dynamic: bool = True,
    int8: bool = False,
    dense: bool = False,
    data: Iterable | None = None,
) -> Exported:
    """Write a model as an ONNX file in standard operators that is as small as what the model stores.

    Norms are folded in. Layers that share work are written as that; of the others the file holds the summary and the
    operators that sample the weight from it, which onnxruntime runs once, when it loads the file. The file is checked:
    by onnx's checker, and against eager torch in onnxruntime, on the example and on random inputs of other sizes.

    Args:
        model: A model, converted or not, or what `deploy` made of it. It is left as it is.
        path: Of the file; a file that is there is replaced.
        example: An input of the size and batch that will come, or a tuple of inputs, float32 where not integers.
        opset: Of ONNX's standard operators, 18 or newer.
        dynamic: Let the batch vary, and for signals `(B, C, T)` the length; else shapes are those of the example.
        int8: Keep summaries and weights at 256 levels each, evenly spaced between the smallest and the largest;
            outputs change by the rounding, which `Exported.error` tells.
        dense: Write dense weights.
        data: Batches `(x, y)` for an accuracy, before and after.

    Raises:
        ConversionError: The example is no input.
        ExportError: torch cannot translate the model; outputs are wrong; or the file is larger than 1.15 times what
            the model stores and 40 kB, without `dense`. Nothing is written then.
        MissingExtra: ONNX's packages are missing.
    """
    form = Onnx(int8=int8, opset=opset)
    return write_model(form, model, path, example, dynamic=dynamic, dense=dense, data=data)


def export_pt2(
    model: nn.Module,
    path: Path | str,
    example: Example,
    *,
    dynamic: bool = True,
    int8: bool = False,
    dense: bool = False,
    data: Iterable | None = None,
) -> Exported:
    """Write a model by `torch.export` as a `.pt2` file, which torch loads without any code of autosample's.

    The file is as small as what the model stores, and is checked in the same way as that of `export_onnx`. torch runs
    the graph as it is: weights are sampled at every call, unless a compiler folds constants first. The file is a zip
    archive of tensors and JSON.

    Args:
        model, path, example, dynamic, int8, dense, data: As for `export_onnx`.

    Raises:
        ConversionError, ExportError: As for `export_onnx`.
    """
    return write_model(Pt2(int8=int8), model, path, example, dynamic=dynamic, dense=dense, data=data)


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
    """Write a model as a file of any format, check it, and only then put it in its place.

    Args:
        form: A row of `FORMATS`, or one with other settings.
        model, path, example, dynamic, dense, data: As for `export_onnx`.

    Raises:
        ConversionError, ExportError, MissingExtra: As for `export_onnx`.
    """
    if form.extra:
        require(form.extra)
    ready = _ready(model, example, int8=form.int8, dense=dense)
    args, axes = _inputs(example, dynamic)
    trials = trial_inputs(args, axes)
    with whole(Path(path)) as partial:
        form.write(ready.model, partial, _batched(args, axes), axes)
        run, size = form.runner(partial), partial.stat().st_size
        if not dense:
            check_size(partial, ready.stored_bytes)
        check_right(ready.model, run, trials)
        error, absolute, count = largest_error(ready.reference, run, trials)
        done = Exported(Path(path), size, ready.stored_bytes, error, absolute, count, forms=ready.forms)
        if data is not None:
            done = replace(done, accuracy=accuracies(ready.reference, run, data))
    return done


def _ready(model: nn.Module, example: Example, *, int8: bool, dense: bool) -> Portable:
    tensors = example if isinstance(example, tuple) else (example,)
    if not all(isinstance(x, Tensor) for x in tensors):
        raise ConversionError(f"an export needs an example input, got a {type(example).__name__}: pass a tensor")
    example = tuple(x.cpu() for x in tensors)
    return (dense_twin if dense else portable)(model, example, int8=int8)


def _inputs(example: Example, dynamic: bool) -> tuple[tuple[Tensor, ...], tuple[dict[int, str], ...] | None]:
    """The example's tensors, and the names of their dynamic axes."""
    args = example if isinstance(example, tuple) else (example,)
    args = tuple(x.detach().cpu() for x in args)
    if not dynamic:
        return args, None
    signal = {0: "batch", 2: "length"}
    return args, tuple(signal if x.dim() == 3 and x.is_floating_point() else {0: "batch"} for x in args)


def _batched(args: tuple[Tensor, ...], axes: object) -> tuple[Tensor, ...]:
    """The example twice: torch takes a batch of one for a constant."""
    return args if axes is None else tuple(torch.cat([x, x]) if len(x) == 1 else x for x in args)
