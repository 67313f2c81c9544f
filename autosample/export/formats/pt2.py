"""`.pt2` files: `torch.export`, saved without pickle."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from autosample.errors import ExportError
from autosample.export.formats.base import Axes, Format, Run, last_line, silence


@dataclass(frozen=True)
class Pt2(Format):
    """A zip archive of tensors and JSON, which torch loads without autosample."""

    title: ClassVar[str] = "torch.export, for torch without autosample"

    file_name: str = "model.pt2"

    def write(self, model: nn.Module, path: Path, args: tuple[Tensor, ...], axes: Axes) -> None:
        program = to_program(model, args, axes)
        with silence():
            save_pt2(program, path)

    def runner(self, path: Path, threads: int = 0) -> Run:
        with silence():
            again: Any = torch.export.load(path).module()
        return lambda inputs: [t for t in tree_leaves(again(*inputs)) if isinstance(t, Tensor)]


def to_program(model: nn.Module, args: tuple, axes: Axes) -> ExportedProgram:
    """The graph of a portable model.

    Args:
        model, args: The model and its inputs.
        axes: For each input, the names of its dynamic axes, or `None` for fixed shapes.

    Raises:
        ExportError: torch cannot trace the model.
    """
    shapes = None if axes is None else tuple(dict.fromkeys(names, Dim.DYNAMIC) for names in axes)
    try:
        with silence(), torch.no_grad():
            program = torch.export.export(model, args, dynamic_shapes=shapes)
    except Exception as error:  # it raises many types
        hint = "try dynamic=False" if axes else "change the module that it names"
        raise ExportError(f"torch.export cannot trace this model ({last_line(error)}): {hint}") from error
    for node in program.graph.nodes:  # paths of source files on this machine
        node.meta.pop("stack_trace", None)
    program.example_inputs = None  # pyright: ignore[reportAttributeAccessIssue] # they would be pickled
    return program


def save_pt2(program: ExportedProgram, path: Path) -> None:
    """`torch.export.save`, then compress the graph, which is JSON; tensors stay raw bytes."""
    written = io.BytesIO()  # a file's name would go into the archive, which does not allow every name
    torch.export.save(program, written)
    with zipfile.ZipFile(written) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            kind = zipfile.ZIP_DEFLATED if info.filename.endswith(".json") else zipfile.ZIP_STORED
            archive.writestr(info.filename, content, kind)
