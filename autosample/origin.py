"""Where a layer of a deployed model comes from, so that a file can hold what is stored instead of what is computed."""

from dataclasses import dataclass

from torch import Tensor, nn

from autosample.nn import SummaryLayer


@dataclass(frozen=True, eq=False)
class Origin:
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


def remember(module: nn.Module, origin: Origin) -> None:
    """Note the origin of a deployed layer. It is no part of its state."""
    module.__dict__["origin"] = origin


def origin_of(module: nn.Module) -> Origin | None:
    """The origin of a deployed layer; `None` for all others."""
    return module.__dict__.get("origin")
