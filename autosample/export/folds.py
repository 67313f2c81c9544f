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
        super().__init__(layer, None if bias is None else folds.spread(bias), origin)
        self.sampled, self.folds = weight, folds
        self.register_buffer("matrix", folds.matrix(torch.float32))

    def convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        filters = self.folds.spread(self.sampled.filters())
        filters = filters.unsqueeze(2) if filters.dim() == 3 else filters
        x, padding = self.padded(x)
        stride, dilation = two(self.frame.stride), two(self.frame.dilation)
        return convolve(x, filters, kept(self, "bias"), self.matrix, self.folds, stride, padding, dilation)


class SignedLinear(nn.Module):
    """A linear layer with folds, and the ReLU that was folded in."""

    matrix: Tensor

    def __init__(self, weight: SampledWeight, bias: Tensor | None, relu: bool, folds: Folds) -> None:
        super().__init__()
        self.sampled, self.folds, self.relu = weight, folds, relu
        self.register_buffer("matrix", folds.matrix(torch.float32))
        keep(self, "bias", bias)

    def forward(self, input: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        y = multiply(input, self.folds.spread(self.sampled.filters()), kept(self, "bias"), self.matrix, self.folds)
        return F.relu(y) if self.relu else y
