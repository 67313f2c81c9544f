"""What a format has to offer."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from autosample.errors import ExportError, one_line
from autosample.system.quiet import quiet

#: Runs a file on the inputs of a model; gives all tensors that the model returns.
Run = Callable[[tuple], list[Tensor]]
#: For each input of a model the names of its dynamic axes; `None` for fixed shapes.
Axes = tuple[dict[int, str], ...] | None
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Format:
    """A kind of file. A subclass may add settings as fields, and checks them in `__post_init__`.

    Attributes:
        file_name: Of a file, if the user gives none.
        int8: Whether stored numbers are kept at 256 levels.
        title: What kind of file it is, for help texts.
        extra: The extra of autosample without which it cannot be written; empty if it needs none.
    """

    title: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    file_name: str
    int8: bool = False

    @property
    def about(self) -> str:
        """One line for help texts."""
        return f"{self.title}, stored numbers at 256 levels" if self.int8 else self.title

    def adjusted(self, **settings: Any) -> Self:
        """This format with other settings.

        Raises:
            ExportError: It has no such setting, or not with this value.
        """
        known = [f.name for f in fields(self)]
        for name in settings:
            if name not in known:
                raise ExportError(f"{type(self).__name__} files have no setting {name!r}, got one: leave it out")
        return replace(self, **settings)

    def write(self, model: nn.Module, path: Path, args: tuple[Tensor, ...], axes: Axes) -> None:
        """Write a model of plain torch layers.

        Args:
            model: In evaluation mode, on the CPU.
            path: Of the file.
            args: Inputs to trace it with; where the batch may vary, at least two examples.
            axes: The dynamic axes.

        Raises:
            ExportError: The model cannot be written.
        """
        raise NotImplementedError

    def runner(self, path: Path, threads: int = 0) -> Run:
        """A function that runs a file; `threads` of 0 leaves their number to the runtime."""
        raise NotImplementedError


def silence() -> AbstractContextManager[None]:
    """Hide what torch's exporters tell about themselves."""
    return quiet(*_NOISY, level=logging.CRITICAL)


def last_line(error: BaseException) -> str:
    """What an error of torch's exporters comes down to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:300] or type(error).__name__
