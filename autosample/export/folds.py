"""Layers with folds in other runtimes: signed sums of channel groups, then one convolution or product with groups."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.coding.written import keep, kept
from autosample.export.layers import Conv, two
from autosample.nn.lineage import Lineage
from autosample.nn.written import SampledWeight
from autosample.sampling.folds import Folds, convolve, multiply


class SignedConv(Conv):
    """A convolution with folds."""

    matrix: Tensor

    def __init__(
        self, layer: nn.Module, weight: SampledWeight, bias: Tensor | None, origin: Lineage, folds: Folds
    ) -> None:
        sort = weight.selection().sort
        super().__init__(layer, None if bias is None else folds.spread(sort(bias)), origin)
        self.sampled, self.folds = weight, folds
        self.register_buffer("matrix", folds.matrix(torch.float32))

    def convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        selection = self.sampled.selection()
        filters = self.folds.spread(selection.sort(self.sampled.filters()))
        filters = filters.unsqueeze(2) if filters.dim() == 3 else filters
        x, padding = self.padded(selection.inputs(x, 1, self.folds.groups))
        stride, dilation = two(self.frame.stride), two(self.frame.dilation)
        y = convolve(x, filters, kept(self, "bias"), self.matrix, self.folds, stride, padding, dilation)
        return selection.outputs(y, 1)


class SignedLinear(nn.Module):
    """A linear layer with folds, and the ReLU that was folded in."""

    matrix: Tensor

    def __init__(self, weight: SampledWeight, bias: Tensor | None, relu: bool, folds: Folds) -> None:
        super().__init__()
        self.sampled, self.folds, self.relu = weight, folds, relu
        self.register_buffer("matrix", folds.matrix(torch.float32))
        keep(self, "bias", bias)

    def forward(self, input: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        selection, folds = self.sampled.selection(), self.folds
        filters = folds.spread(selection.sort(self.sampled.filters()))
        y = multiply(selection.inputs(input, -1), filters, None, self.matrix, folds)
        y, bias = selection.outputs(y, -1), kept(self, "bias")
        y = y if bias is None else y + bias
        return F.relu(y) if self.relu else y
