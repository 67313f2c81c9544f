"""The verb `predict`: classes of files with a saved model, or of a data set with a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autosample.cli.options import Parser, add_factory, number, parse, whole
from autosample.errors import ConfigError

_PATH = 4096  # characters; no path is longer


def declare(parser: Parser) -> None:
    """Declare the options of `predict` for a saved model."""
    parser.description = "Print the most likely classes of images or sounds, one line per file."
    parser.add_argument("folder", type=Path, help="folder of a saved model, which also says how to prepare inputs")
    parser.add_argument("files", nargs="*", type=Path, help="images or sounds")
    parser.add_argument("--top", type=whole, default=3, help="number of classes to print (3)")
    add_factory(parser)
    parser.add_argument("--max_pixels", type=whole, help="largest image, in pixels (89478485)")
    parser.add_argument("--max_seconds", type=number, help="longest sound, in seconds (86400)")
    parser.add_argument("--max_bytes", type=whole, help="largest file, in bytes (4294967296)")


def main(args: Sequence[str]) -> None:
    """Run the verb: a folder and files mean a saved model, options alone mean a checkpoint."""
    if len(args) > 1 and not args[1].startswith("-"):
        predict(**parse(args, declare))
        return
    from autosample.cli.fit import main as lightning

    lightning(args)


def predict(folder: Path, files: list[Path], top: int = 3, factory: Any = None, **limits: float | None) -> None:
    """Print the most likely classes of images or sounds, one line per file.

    Args:
        folder: Folder of a saved model, which also says how to prepare inputs.
        files: Images or sounds.
        top: Number of classes to print.
        factory: As for `autosample.load`.
        limits: `max_pixels`, `max_seconds` and `max_bytes` of a file (`autosample.data.files.Limits`).

    Raises:
        AutosampleError: The folder does not hold a saved model, or a file cannot be read.
    """
    from autosample.artifact import load_any
    from autosample.data.files import Limits, shown
    from autosample.data.inputs import read_input

    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}: the default is 3")
    if not files:
        raise ConfigError("predict needs files, got none: write autosample predict DIR FILE…")
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    allowed = Limits(**given)
    model, config = load_any(folder, factory=factory)
    with torch.inference_mode():
        for file in files:
            out = model(read_input(file, config.preprocessing, allowed)[None])
            print(f"{shown(file, _PATH)}: {_line(out[0], config, top)}", flush=True)


def _line(scores: Tensor, config: Any, top: int) -> str:
    """The most likely classes with their probabilities, as text. Of several classes, each has its own."""
    from autosample.data.files import shown

    names = config.class_names
    shares = scores.sigmoid() if config.facts.get("multilabel") is True else scores.softmax(0)
    shares, classes = shares.topk(min(top, len(scores)))
    known = [str(i) if names is None else shown(names[i]) for i in classes.tolist()]
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in zip(known, shares.tolist(), strict=True))
