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
from autosample.sampling.mixture import Mixture, mean_maps, mean_rows


def _matrix(weight: SampledWeight, folds: Folds, mixture: Mixture | None) -> Tensor | None:
    """The signs of the blocks, or those that are mixed; `None` where the graph computes them from what is stored."""
    if mixture is not None:
        return mixture.signs(torch.float32)
    return folds.matrix(torch.float32) if weight.matrix is None else None


def _signs(form: "SignedConv | SignedLinear") -> Tensor:
    made = form.sampled.matrix
    matrix = form.matrix if made is None else made()
    assert matrix is not None
    return matrix


class SignedConv(Conv):
    """A convolution with folds; a `mixture` mixes their signs for each example."""

    matrix: Tensor | None

    def __init__(
        self,
        layer: nn.Module,
        weight: SampledWeight,
        bias: Tensor | None,
        origin: Lineage,
        folds: Folds,
        mixture: Mixture | None,
    ) -> None:
        sort = weight.selection().sort
        super().__init__(layer, None if bias is None else folds.spread(sort(bias)), origin)
        self.sampled, self.folds, self.mixture = weight, folds, mixture
        self.register_buffer("matrix", _matrix(weight, folds, mixture))

    def convolve(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        selection = self.sampled.selection()
        filters = self.folds.spread(selection.sort(self.sampled.filters()))
        filters = filters.unsqueeze(2) if filters.dim() == 3 else filters
        x, matrix = selection.inputs(x, 1, self.folds.groups), _signs(self)
        if self.mixture is not None:  # it reads the input without its padding
            inner = x if self.pad is None else F.pad(x, [-n for n in self.pad[0]])
            matrix = self.mixture(mean_maps(inner, self.folds), matrix)
        x, padding = self.padded(x)
        stride, dilation = two(self.frame.stride), two(self.frame.dilation)
        y = convolve(x, filters, kept(self, "bias"), matrix, self.folds, stride, padding, dilation)
        return selection.outputs(y, 1)


class SignedLinear(nn.Module):
    """A linear layer with folds, and the ReLU that was folded in."""

    matrix: Tensor | None

    def __init__(
        self, weight: SampledWeight, bias: Tensor | None, relu: bool, folds: Folds, mixture: Mixture | None
    ) -> None:
        super().__init__()
        self.sampled, self.folds, self.relu, self.mixture = weight, folds, relu, mixture
        self.register_buffer("matrix", _matrix(weight, folds, mixture))
        keep(self, "bias", bias)

    def forward(self, input: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        selection, folds = self.sampled.selection(), self.folds
        filters = folds.spread(selection.sort(self.sampled.filters()))
        x, matrix = selection.inputs(input, -1), _signs(self)
        matrix = matrix if self.mixture is None else self.mixture(mean_rows(x, folds), matrix)
        y = multiply(x, filters, None, matrix, folds)
        y, bias = selection.outputs(y, -1), kept(self, "bias")
        y = y if bias is None else y + bias
        return F.relu(y) if self.relu else y
