"""What follows a layer and can be computed together with it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class After:
    """What is folded into a layer: `pool(relu(scale·conv(x) + shift))`.

    Attributes:
        scale: Factors of a norm for the filters, `(N,)`, float64, or `None`.
        shift: Added to the filters' outputs, including the layer's own bias, `(N,)`, or `None`.
        relu: Whether a ReLU follows.
        pool: Size and stride of the max-pool that follows (1-D only), or 1.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    relu: bool = False
    pool: int = 1
