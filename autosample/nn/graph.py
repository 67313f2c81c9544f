"""An identity in the forward pass that changes only the backward pass."""

import torch
from torch import Tensor


class _KeepInGraph(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *unused: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, *(torch.zeros_like(tensor) for tensor in ctx.saved_tensors)


def keep_in_graph(x: Tensor, unused: list[Tensor]) -> Tensor:
    """`x`, with zero gradients for `unused`: distributed training needs every parameter in the graph."""
    return _KeepInGraph.apply(x, *unused) if unused else x  # pyright: ignore[reportReturnType]
