"""How the layers of a net share the numbers that a ratio leaves them."""

import math
from collections.abc import Sequence

from autosample.sampling.checks import Number


def root_ratios(weights: Sequence[int], ratio: Number) -> list[float]:
    """Layer ratios that give every layer numbers in proportion to the square root of its weights.

    All layers together store `Σ weights / ratio` numbers, as they would at the same ratio each. The rule follows from
    one assumption: where what a layer costs in accuracy grows with its ratio `weights / numbers`, the sum over layers
    is least at `numbers ∝ √weights` (Lagrange). It is near the Erdős–Rényi-kernel shares of sparse training (Evci et
    al. 2020, RigL, section 3), which go by the sum of a weight's sides instead of the root of their product.

    Args:
        weights: Dense weights of each layer, above 0.
        ratio: Dense weights per stored number, over all of these layers, at least 1.

    Returns:
        A ratio per layer; exactly 1 where a layer's share would hold all its weights, whose rest others then get.
    """
    left, roots = sum(weights) / ratio, sum(math.sqrt(count) for count in weights)
    full: set[int] = set()
    for layer in sorted(range(len(weights)), key=weights.__getitem__):
        root = math.sqrt(weights[layer])
        if root * roots > left:  # left/roots numbers a unit of root: too few for all of this layer and larger ones
            break
        full.add(layer)
        left, roots = left - weights[layer], roots - root
    return [1.0 if i in full else math.sqrt(count) * roots / left for i, count in enumerate(weights)]
