"""The interface of a file format."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from autosample.coding.written import Rounding
from autosample.errors import ExportError, one_line
from autosample.system.quiet import quiet

#: Runs a file on the inputs of a model; returns all output tensors.
Run = Callable[[tuple], list[Tensor]]
#: For each input of a model, the names of its dynamic axes; `None` for fixed shapes.
Axes = tuple[dict[int, str], ...] | None
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Format:
    """A file format. A subclass may add settings as fields, which it checks in `__post_init__`.

    Attributes:
        file_name: Default name of a file.
        int8_weights: Whether numbers are stored at 256 levels; computation is in float32.
        title: Short description for help texts.
        extra: The extra of autosample without which it cannot be written; empty if it needs none.
    """

    title: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    file_name: str
    int8_weights: bool = False

    @property
    def about(self) -> str:
        """One line for help texts."""
        return f"{self.title}, stored numbers at 256 levels" if self.int8_weights else self.title

    @property
    def rounding(self) -> Rounding:
        """How the model's numbers are rounded before it is written."""
        return "even" if self.int8_weights else ""

    @property
    def calibration(self) -> tuple[tuple[Tensor, ...], ...] | None:
        """Batches on which a file is compared that does not compute exactly the same; `None` if it does."""
        return None

    def prepared(self, args: tuple[Tensor, ...], axes: Axes) -> Self:
        """This format with its data checked, for a model with these inputs.

        Raises:
            ExportError: Data is missing or does not fit.
        """
        return self

    def adjusted(self, **settings: Any) -> Self:
        """This format with other settings.

        Raises:
            ExportError: There is no such setting, or the value is invalid.
        """
        known = [f.name for f in fields(self)]
        for name in settings:
            if name not in known:
                raise ExportError(f"{type(self).__name__} files have no setting {name!r}: leave it out")
        return replace(self, **settings)

    def write(self, model: nn.Module, path: Path, args: tuple[Tensor, ...], axes: Axes) -> None:
        """Write a model of plain torch layers.

        Args:
            model: A model in evaluation mode, on the CPU.
            path: File to write.
            args: Inputs to trace it with; at least two examples if the batch may vary.
            axes: The dynamic axes.

        Raises:
            ExportError: The model cannot be written.
        """
        raise NotImplementedError

    def runner(self, path: Path, threads: int = 0) -> Run:
        """A function that runs a file; with `threads` 0 the runtime chooses their number."""
        raise NotImplementedError


def silence() -> AbstractContextManager[None]:
    """Hide the messages of torch's exporters."""
    return quiet(*_NOISY, level=logging.CRITICAL)


def last_line(error: BaseException) -> str:
    """The core of an error of torch's exporters, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:300] or type(error).__name__
