"""`export_onnx` and `export_pt2`: a portable model into a file that is compact, checked, and there as a whole."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autosample.deployment.deploy import Example
from autosample.errors import ConversionError, ExportError
from autosample.export.check import (
    Exported,
    Run,
    accuracies,
    check_right,
    check_size,
    largest_error,
    trial_inputs,
)
from autosample.export.onnx_file import NOISY, require, to_onnx
from autosample.export.portable import Portable, dense_twin, portable
from autosample.export.pt2_file import save_pt2, to_program
from autosample.system.files import whole
from autosample.system.quiet import quiet

_OLDEST = 18  # what torch translates to


def export_onnx(
    model: nn.Module,
    path: Path | str,
    example: Example,
    *,
    opset: int = _OLDEST,
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
        ExportError: ONNX's packages are missing; torch cannot translate the model; outputs are wrong; or the file is
            larger than 1.15 times what the model stores and 40 kB, without `dense`. Nothing is written then.
    """
    require("onnx", "onnxscript", "onnxruntime")
    if opset < _OLDEST:
        raise ExportError(f"opset must be at least {_OLDEST}, got {opset}: leave it out")
    ready = _ready(model, example, int8=int8, dense=dense)
    args, axes = _inputs(example, dynamic)
    graph = to_onnx(ready.model, _batched(args, axes), opset=opset, dynamic=axes)

    def write(file: Path) -> Run:
        import onnx
        import onnx_ir

        with quiet(*NOISY, level=logging.CRITICAL):
            onnx_ir.save(graph, file)
            onnx.checker.check_model(file, full_check=True)
        return onnx_runner(file)

    return _finish(ready, write, Path(path), args, axes, dense, data)


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

    The file is as small as what the model stores and checked in the same way as that of `export_onnx`. torch runs the
    graph as it is: weights that are sampled are sampled at every call, unless a compiler that folds constants comes
    before. The file is a zip archive of tensors and JSON.

    Args:
        model, path, example, dynamic, int8, dense, data: As for `export_onnx`.

    Raises:
        ConversionError, ExportError: As for `export_onnx`.
    """
    ready = _ready(model, example, int8=int8, dense=dense)
    args, axes = _inputs(example, dynamic)
    program = to_program(ready.model, _batched(args, axes), axes)

    def write(file: Path) -> Run:
        with quiet(*NOISY, level=logging.CRITICAL):
            save_pt2(program, file)
            again: Any = torch.export.load(file).module()
        return lambda inputs: list(_flat(again(*inputs)))

    return _finish(ready, write, Path(path), args, axes, dense, data)


def onnx_runner(path: Path | str, threads: int = 0) -> Run:
    """A function that runs an ONNX file on CPU tensors; `threads` of 0 leaves their number to onnxruntime."""
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(args: tuple) -> list[Tensor]:
        feed = {name: x.detach().contiguous().numpy() for name, x in zip(names, args, strict=True)}
        return [torch.from_numpy(out) for out in session.run(None, feed)]

    return run


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


def _flat(out: Any) -> list[Tensor]:
    from torch.utils._pytree import tree_leaves

    return [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def _finish(
    ready: Portable,
    write: Callable[[Path], Run],
    path: Path,
    args: tuple,
    axes: Any,
    dense: bool,
    data: Iterable | None,
) -> Exported:
    """Write, check, and only then put the file in its place."""
    trials = trial_inputs(args, axes)
    with whole(path) as partial:
        run = write(partial)
        size = partial.stat().st_size
        if not dense:
            check_size(partial, ready.stored_bytes)
        check_right(ready.model, run, trials)
        error, absolute, count = largest_error(ready.reference, run, trials)
        done = Exported(path, size, ready.stored_bytes, error, absolute, count, forms=ready.forms)
        if data is not None:
            done = replace(done, accuracy=accuracies(ready.reference, run, data))
    return done
