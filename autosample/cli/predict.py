"""The verb `predict` for a saved model: classes of images and sounds."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autosample.errors import ConfigError


def add_arguments(parser: Any) -> None:
    """Declare the options of `predict`."""
    parser.add_argument("folder", type=Path, help="of a saved model; inputs are prepared as it says")
    parser.add_argument("files", nargs="*", type=Path, help="images or sounds")
    parser.add_argument("--top", type=int, default=3, help="how many classes to print")


def predict(folder: Path, files: list[Path], top: int = 3) -> None:
    """Print the likeliest classes of images or sounds, a line a file.

    Args:
        folder: Of a saved model; inputs are prepared as it says.
        files: Images or sounds.
        top: How many classes to print.
    """
    from autosample.artifact import load_any
    from autosample.data.inputs import read_input

    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}: leave it out for three classes")
    if not files:
        raise ConfigError("predict needs files, got none: autosample predict DIR FILE…")
    model, config = load_any(folder)
    with torch.inference_mode():
        for file in files:
            out = model(read_input(file, config.preprocessing)[None])
            print(f"{file}: {_line(out[0], config.class_names, top)}", flush=True)


def _line(scores: Tensor, names: tuple[str, ...] | None, top: int) -> str:
    """The likeliest classes with their probabilities."""
    shares, classes = scores.softmax(0).topk(min(top, len(scores)))
    known = [str(i) if names is None else names[i] for i in classes.tolist()]
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in zip(known, shares.tolist(), strict=True))
