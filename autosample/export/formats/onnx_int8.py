"""ONNX with int8 arithmetic: the float32 graph, quantised by onnxruntime on the user's data."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn

from autosample.coding.written import Rounding
from autosample.errors import ExportError
from autosample.export.formats.base import Axes, last_line, silence
from autosample.export.formats.calibration import Batches, read_batches
from autosample.export.formats.onnx import Onnx
from autosample.export.int8 import quantise


@dataclass(frozen=True)
class OnnxInt8(Onnx):
    """Convolutions and matrix products with integers of 8 bits, for weights and activations.

    Attributes:
        calibrate: Batches of inputs, as for `autosample.export_onnx`: ranges of activations are measured on them.
    """

    title: ClassVar[str] = "ONNX with int8 arithmetic, needs --calibrate"

    file_name: str = "model-int8.onnx"
    calibrate: Iterable[Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.int8_weights:
            raise ExportError("int8 arithmetic stores weights at 256 levels already: leave out int8_weights")

    @property
    def rounding(self) -> Rounding:
        return "signed"

    def prepared(self, args: tuple[Tensor, ...], axes: Axes) -> Self:
        return replace(self, calibrate=read_batches(self.calibrate, args, axes))

    @property
    def calibration(self) -> Batches:
        assert isinstance(self.calibrate, tuple)
        return self.calibrate

    def write(self, model: nn.Module, path: Path, args: tuple[Tensor, ...], axes: Axes) -> None:
        import onnx

        super().write(model, path, args, axes)
        try:
            made = quantise(onnx.load(path), self.calibration, _steps(model))
            onnx.checker.check_model(made, full_check=True)
        except Exception as error:  # onnxruntime's tools raise many types
            raise ExportError(
                f"onnxruntime cannot quantise this model ({type(error).__name__}: {last_line(error)}): use the format "
                "onnx-int8-weights"
            ) from error
        with silence():
            onnx.save(made, path)


def _steps(model: nn.Module) -> dict[str, np.ndarray]:
    """Steps of the weights that are whole multiples of them, by layer."""
    found = {}
    for name, module in model.named_modules():
        steps = getattr(getattr(module, "sampled", None), "steps", None)
        if steps is not None and (known := steps()) is not None:
            found[name] = known.numpy()
    return found
