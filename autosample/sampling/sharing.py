"""How the layers of a model share the numbers that a ratio allows."""

import math
from collections.abc import Sequence

from autosample.sampling.checks import Number


def root_ratios(weights: Sequence[int], ratio: Number) -> list[float]:
    """Layer ratios that give every layer numbers in proportion to the square root of its weights.

    All layers together store `Σ weights / ratio` numbers, the same as with equal ratios. This follows from one
    assumption: if a layer's loss of accuracy grows with its ratio `weights / numbers`, the sum over layers is smallest
    at `numbers ∝ √weights` (Lagrange). It is near the Erdős–Rényi-kernel shares of sparse training (Evci et al. 2020,
    RigL, section 3), which use the sum of a weight's sides instead of the root of their product.

    Args:
        weights: Dense weights of each layer, above 0.
        ratio: Dense weights per stored number, over all of these layers, at least 1.

    Returns:
        A ratio per layer; exactly 1 for a layer whose share would hold all its weights. The surplus goes to other
        layers.
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
