"""Files that verbs measure activations on."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosample.cli.options import Parser, whole

if TYPE_CHECKING:
    from torch import Tensor

_AT_ONCE = 16  # examples per batch, about


def add_calibration(parser: Parser, purpose: str, examples: int) -> None:
    """Declare `--calibrate` and `--examples`."""
    add = parser.add_argument
    add("--calibrate", nargs="+", type=Path, help=f"images or sounds, or folders of them, {purpose}")
    add("--examples", type=whole, default=examples, help=f"number of files to calibrate on at most ({examples})")


def calibration_batches(
    paths: list[Path] | None, preprocessing: Mapping[str, Any], examples: int, *, at_once: int = _AT_ONCE
) -> "list[Tensor] | None":
    """The files to calibrate on, prepared like the model's inputs, in a random order; `None` if none are given."""
    if paths is None:
        return None
    import torch

    from autosample.data.inputs import read_inputs  # needs the extra `train`

    found = read_inputs(paths, preprocessing, examples)
    # files of folders come class by class, and each batch should have all classes
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return list(found[order].chunk(max(len(found) // at_once, 1)))
