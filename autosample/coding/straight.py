"""Straight-through gradients."""

import torch
from jaxtyping import Float
from torch import Tensor


class _Straight(torch.autograd.Function):
    """The second tensor forward, the gradient of the first backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, shown: Tensor) -> Tensor:
        return shown.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None


def straight(values: Float[Tensor, "*shape"], shown: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`shown`, with the gradient of `values` (a straight-through gradient)."""
    return _Straight.apply(values, shown)  # pyright: ignore[reportReturnType]
