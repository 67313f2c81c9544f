"""Sum-product layers in files: convolutions with entries −1, 0 and 1, which are stored five in a byte."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autosample.coding.ternary import pack_ternary, unpack_ternary
from autosample.coding.written import keep, kept
from autosample.nn.lineage import Lineage
from autosample.reuse.sum_product import computed

_NUMBERS = ("scale", "shift", "factors", "bias")


class WrittenProducts(nn.Module):
    """A hardened sum-product layer and what was folded into it.

    Args:
        layer: The hardened layer.
        origin: What was folded into its deployed form.
    """

    def __init__(self, layer: Any, origin: Lineage) -> None:
        super().__init__()
        after = origin.after
        self.patches, self.relu, self.pool = layer.patches, after.relu, after.pool
        self.shapes: dict[str, torch.Size] = {}
        for name in ("gather", "spread"):
            entries = layer.entries(name)
            self.shapes[name] = entries.shape
            self.register_buffer(name, pack_ternary(entries))
        keep(self, "scale", layer.scale, "", layer.quantizer("scale"))
        for name, tensor in (("shift", layer.shift), ("factors", after.scale), ("bias", after.shift)):
            keep(self, name, tensor)
        for name in layer.__constants__:  # a model may read its kernel size, for example
            setattr(self, name, getattr(layer, name))

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        tensors = {name: kept(self, name) for name in _NUMBERS}
        for name, shape in self.shapes.items():
            tensors[name] = unpack_ternary(self.get_buffer(name), shape.numel()).view(shape)
        return computed(self.patches, input, tensors, self.relu, self.pool)
