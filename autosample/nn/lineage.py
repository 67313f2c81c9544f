"""Where a layer of a deployed model comes from, so that a file can hold what is stored instead of what is computed."""

from dataclasses import dataclass

from torch import Tensor, nn

from autosample.nn import SummaryLayer

_KEY = "_autosample_lineage"


@dataclass(frozen=True, eq=False)
class Lineage:
    """The summary layer that a deployed one stands for, and what was folded into it.

    Attributes:
        layer: Hardened; it holds the summary and the positions, never a dense weight.
        scale, bias: What the norm and the layer's own bias come to, `(N,)` or `None`.
        relu, pool: What follows inside: a ReLU, a max-pool of this size and stride (1-D only).
    """

    layer: SummaryLayer
    scale: Tensor | None = None
    bias: Tensor | None = None
    relu: bool = False
    pool: int = 1


def remember(module: nn.Module, origin: Lineage) -> None:
    """Note the origin of a deployed layer. It is no part of its state."""
    module.__dict__[_KEY] = origin


def forget(module: nn.Module) -> None:
    """Take the note back."""
    module.__dict__.pop(_KEY, None)


def lineage_of(module: nn.Module) -> Lineage | None:
    """The origin of a deployed layer; `None` for all others."""
    return module.__dict__.get(_KEY)
