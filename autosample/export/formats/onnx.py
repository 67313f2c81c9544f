"""ONNX: export, clean up without making weights dense, and name everything after its layer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autosample.errors import ExportError
from autosample.export.formats.base import Axes, Format, Run, last_line, silence
from autosample.export.graph import tidy
from autosample.system.extras import require

# Folding never creates constants of more numbers than this: sizes and axes fold, weights stay as stored.
_FOLDS = 64
_OLDEST = 18  # what torch translates to


@dataclass(frozen=True)
class Onnx(Format):
    """Standard operators of ONNX; computation is in float32, also with `int8_weights`.

    Attributes:
        opset: ONNX opset, 18 or newer.
    """

    title: ClassVar[str] = "ONNX, for onnxruntime and others"
    extra: ClassVar[str] = "export"

    file_name: str = "model.onnx"
    opset: int = _OLDEST

    def __post_init__(self) -> None:
        if self.opset < _OLDEST:
            raise ExportError(f"opset must be at least {_OLDEST}, got {self.opset}: leave it out")

    def write(self, model: nn.Module, path: Path, args: tuple[Tensor, ...], axes: Axes) -> None:
        import onnx
        import onnx_ir

        graph = to_onnx(model, args, opset=self.opset, dynamic=axes)
        with silence():
            onnx_ir.save(graph, path)
            onnx.checker.check_model(path, full_check=True)

    def runner(self, path: Path, threads: int = 0) -> Run:
        return onnx_runner(path, threads)


def onnx_runner(path: Path | str, threads: int = 0) -> Run:
    """A function that runs an ONNX file on CPU tensors; with `threads` 0 onnxruntime chooses their number.

    Raises:
        MissingExtra: onnxruntime is missing.
    """
    require("export", "onnxruntime")
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


def to_onnx(model: nn.Module, args: tuple, *, opset: int, dynamic: Axes) -> Any:
    """The graph of a portable model, as an `onnx_ir.Model`.

    Args:
        model, args: The model and its inputs.
        opset: ONNX opset.
        dynamic: For each input its dynamic axes, as for `torch.export`; `None` for fixed shapes.

    Raises:
        ExportError: torch cannot trace or translate the model.
    """
    from onnxscript import optimizer

    names: dict[str, Any] = {"input_names": ["input"]} if len(args) == 1 else {}
    try:
        with silence():
            program = torch.onnx.export(
                model, args, dynamo=True, opset_version=opset, dynamic_shapes=dynamic, verbose=False, optimize=False,
                **names,
            )  # fmt: skip
            assert program is not None
            optimizer.optimize_ir(program.model, input_size_limit=_FOLDS, output_size_limit=_FOLDS)
    except Exception as error:  # torch's exporters raise many types
        raise ExportError(
            f"torch.onnx.export cannot translate this model ({type(error).__name__}: {last_line(error)}): "
            + ("try dynamic=False" if dynamic else "change the module that it names")
        ) from error
    tidy(program.model.graph)
    program.model.producer_name, program.model.producer_version = "autosample", _version()
    return program.model


def _version() -> str:
    from autosample import __version__

    return __version__
