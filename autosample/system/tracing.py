"""What `torch.fx` sees of a module, and whether something traces."""

from typing import Any

import torch

# torch 2.6 cannot distinguish an export from a compilation
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def keep_whole(module: Any) -> None:
    """Make `torch.fx` trace a module as a leaf, like those of torch itself.

    A tracer takes a module for a leaf if its `__module__` lies in `torch.nn`. This sets it for the instance, so classes
    keep theirs for pickle.
    """
    module.__dict__["__module__"] = "torch.nn"
