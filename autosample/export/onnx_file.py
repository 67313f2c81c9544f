"""From a portable model to an ONNX graph: export, clean up without densifying, give everything its layer's name."""

import logging
from typing import Any

import torch
from torch import nn

from autosample.errors import ExportError, one_line
from autosample.export.graph import tidy
from autosample.system.quiet import quiet

# Constants of more numbers than this are never made by folding: sizes and axes fold, weights stay as they are stored.
_FOLDS = 64
#: Loggers in which torch's exporters tell about themselves.
NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def require(*modules: str) -> None:
    """Raise `ExportError` unless all of these can be imported."""
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX files need onnx, onnxscript and onnxruntime, {', '.join(missing)} is missing: "
            "pip install 'autosample[export]'"
        )


def to_onnx(model: nn.Module, args: tuple, *, opset: int, dynamic: tuple[Any, ...] | None) -> Any:
    """The graph of a portable model, as an `onnx_ir.Model`.

    Args:
        model, args: The model and its inputs.
        opset: Of the standard operators.
        dynamic: For each input its dynamic axes, as `torch.export` takes them; `None` for fixed shapes.

    Raises:
        ExportError: torch cannot trace or translate the model.
    """
    from onnxscript import optimizer

    names: dict[str, Any] = {"input_names": ["input"]} if len(args) == 1 else {}
    try:
        with quiet(*NOISY, level=logging.CRITICAL):
            program = torch.onnx.export(
                model, args, dynamo=True, opset_version=opset, dynamic_shapes=dynamic, verbose=False, optimize=False,
                **names,
            )  # fmt: skip
            assert program is not None
            optimizer.optimize_ir(program.model, input_size_limit=_FOLDS, output_size_limit=_FOLDS)
    except Exception as error:  # torch's exporters fail in many ways
        raise ExportError(
            f"torch.onnx.export must get through the model, got {type(error).__name__}: {last_line(error)}: "
            + ("try dynamic=False" if dynamic else "change the module that it names")
        ) from error
    tidy(program.model.graph)
    program.model.producer_name, program.model.producer_version = "autosample", _version()
    return program.model


def _version() -> str:
    from autosample import __version__

    return __version__


def last_line(error: BaseException) -> str:
    """What an error of torch's exporters comes down to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:300] or type(error).__name__
