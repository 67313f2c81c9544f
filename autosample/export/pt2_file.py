"""From a portable model to a `.pt2` file: `torch.export`, saved without anything pickled."""

import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from autosample.errors import ExportError
from autosample.export.onnx_file import NOISY, last_line
from autosample.system.quiet import quiet


def to_program(model: nn.Module, args: tuple, axes: Sequence[dict[int, str]] | None) -> ExportedProgram:
    """The graph of a portable model.

    Args:
        model, args: The model and its inputs.
        axes: For each input the names of its dynamic axes, or `None` for fixed shapes.

    Raises:
        ExportError: torch cannot trace the model.
    """
    shapes = None if axes is None else tuple(dict.fromkeys(names, Dim.DYNAMIC) for names in axes)
    try:
        with quiet(*NOISY, level=logging.CRITICAL), torch.no_grad():
            program = torch.export.export(model, args, dynamic_shapes=shapes)
    except Exception as error:  # it fails in many ways
        hint = "try dynamic=False" if axes else "change the module that it names"
        raise ExportError(f"torch.export must get through the model, got {last_line(error)}: {hint}") from error
    for node in program.graph.nodes:  # the places of source files on this machine
        node.meta.pop("stack_trace", None)
    program.example_inputs = None  # pyright: ignore[reportAttributeAccessIssue] # they would be pickled
    return program


def save_pt2(program: ExportedProgram, path: Path) -> None:
    """`torch.export.save`, and then the graph, which is JSON, is compressed; tensors stay raw bytes."""
    written = io.BytesIO()  # a file's name would go into the archive, and not every name may
    torch.export.save(program, written)
    with zipfile.ZipFile(written) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            kind = zipfile.ZIP_DEFLATED if info.filename.endswith(".json") else zipfile.ZIP_STORED
            archive.writestr(info.filename, content, kind)
