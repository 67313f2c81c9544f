"""Warnings that point at the user's line."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from autosample.errors import AutosampleWarning

# What may lie between the user's line and ours. The command line hides warnings about Lightning's and torch's lines.
_BETWEEN = {
    "autosample", "torch", "timm", "pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities",
    "torchmetrics", "jsonargparse", "contextlib", "functools",
}  # fmt: skip


def warn(text: str) -> None:
    """Warn of `text` at the line of the caller that is neither autosample's nor that of a library it runs in."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_back is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _BETWEEN:
            break
        frame, level = frame.f_back, level + 1
    warnings.warn(text, AutosampleWarning, stacklevel=level)


@contextmanager
def noticed() -> Iterator[list[str]]:
    """In the block, collect the texts of autosample's warnings, each once, and hide those of other libraries."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", AutosampleWarning)
        try:
            yield texts
        finally:
            texts += dict.fromkeys(str(one.message) for one in seen)
