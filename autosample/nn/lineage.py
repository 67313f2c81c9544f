"""Where a layer of a deployed model comes from. So a file can hold what is stored instead of what is computed."""

from dataclasses import dataclass, field

from torch import nn

from autosample.nn.compressed import Compressed
from autosample.reuse.after import After

_KEY = "_autosample_lineage"


@dataclass(frozen=True, eq=False)
class Lineage:
    """The compressed layer that a deployed one replaces, and what was folded into it.

    Attributes:
        layer: The hardened layer; it holds what is stored, never a dense weight.
        after: What was folded in; its `scale` is in the deployed layer's weight, its `shift` is its bias.
    """

    layer: Compressed
    after: After = field(default_factory=After)


def remember(module: nn.Module, origin: Lineage) -> None:
    """Note the origin of a deployed layer. The note is not part of its state."""
    module.__dict__[_KEY] = origin


def forget(module: nn.Module) -> None:
    """Remove the note."""
    module.__dict__.pop(_KEY, None)


def lineage_of(module: nn.Module) -> Lineage | None:
    """The origin of a deployed layer; `None` for all others."""
    return module.__dict__.get(_KEY)
