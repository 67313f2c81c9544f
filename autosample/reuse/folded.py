"""The inference modules of layers with folds: signed sums of channel groups, then one product per block of filters."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from autosample.reuse.deployed import Deployed
from autosample.reuse.layer import in_autocast
from autosample.reuse.schedule import Frame
from autosample.sampling.folds import LAST, Folds, convolve, multiply, multiply_maps
from autosample.sampling.mixture import Mixture, mean_maps, mean_rows
from autosample.sampling.selection import IN_ORDER, Selection, repeated

#: How a convolution multiplies: as one with groups, in torch's usual layout or with channels last, or as a product of
#: matrices, if its kernel has one tap.
Way = Literal["grouped", "last", "product"]


def ways(frame: Frame) -> list[Way]:
    """The ways that a convolution can take."""
    found: list[Way] = ["grouped"]
    if len(frame.kernel) > 1:
        found.append("last")
    one = all(k == 1 for k in frame.kernel) and all(pair == (0, 0) for pair in frame.padding)
    if one:
        found.append("product")
    return found


class Folded(Deployed, ABC):
    """What all inference modules of layers with folds share.

    Args:
        folds: What to compute.
        taps: Taps of the kernel.
        stored: The numbers that the module holds; only their count, type and device matter here.
        bias: As the operators of `autosample.sampling.folds` take it, or `None`.
        relu: Whether a ReLU follows.
        selection: What is selected; filters and bias come sorted by block.
        mixture: What mixes the signs for each example, if something does.
        signs: The signs of the blocks, `(B, G)`, if they are not rows of a Hadamard matrix.
    """

    matrix: Tensor
    bias: Tensor | None
    slots: Tensor | None
    channels: Tensor | None

    def __init__(
        self,
        folds: Folds,
        taps: int,
        stored: Tensor,
        bias: Float[Tensor, " n"] | None,
        relu: bool,
        selection: Selection,
        mixture: Mixture | None = None,
        signs: Float[Tensor, "k g"] | None = None,
    ) -> None:
        super().__init__()
        self.folds, self.relu, self.mixture = folds, relu, mixture
        self._taps, self._stored = taps, stored.numel()
        if mixture is None:
            usual = folds.matrix(stored.dtype, stored.device)
            self.register_buffer("matrix", usual if signs is None else signs.clone())
        else:
            self._stored += mixture.reader.numel() + mixture.chooser.numel()
            self.register_buffer("matrix", mixture.signs(stored.dtype, stored.device))
        if bias is None:  # no empty buffer: `torch.export` fails on these
            self.bias = None
        else:
            self.register_buffer("bias", bias.detach().clone().contiguous())
        chosen = None if selection.channels is None else repeated(selection.channels, folds.groups)
        for name, order in (("slots", selection.slots), ("channels", chosen)):
            if order is None:
                setattr(self, name, None)
            else:
                self.register_buffer(name, order.to(torch.int32))

    @property
    def selection(self) -> Selection:
        """What is selected; `channels` are those of all convolution groups."""
        return Selection(self.slots, self.channels)

    @abstractmethod
    def placed(self, dtype: torch.dtype) -> tuple[Float[Tensor, "p q *kernel"], Float[Tensor, " n"] | None]:
        """Filters and bias, as the operators take them; in `dtype`, if they are kept in another form."""

    @property
    def dense_weights(self) -> int:
        return self.folds.filters * self.folds.channels * self._taps

    @property
    def stored_weights(self) -> int:
        return self._stored

    @property
    def other_numbers(self) -> int:
        return 0 if self.bias is None else self.folds.filters


class FoldedMaps(Folded):
    """A convolution with folds, for inference; its children say how they keep the filters.

    Args:
        folds, stored, bias, relu, selection, mixture, signs: As for `Folded`.
        frame: Where the filters are applied.
        pad: Sizes and mode of `torch.nn.functional.pad` before the layer, if the padding is not zeros.
        pool: Size and stride of the max-pool that follows (1-D only).
        way: How to multiply, where standard operators do it.
    """

    def __init__(
        self,
        folds: Folds,
        frame: Frame,
        stored: Tensor,
        *,
        bias: Float[Tensor, " n"] | None = None,
        pad: tuple[list[int], str] | None = None,
        relu: bool = False,
        pool: int = 1,
        way: Way = "grouped",
        selection: Selection = IN_ORDER,
        mixture: Mixture | None = None,
        signs: Float[Tensor, "k g"] | None = None,
    ) -> None:
        super().__init__(folds, torch.Size(frame.kernel).numel(), stored, bias, relu, selection, mixture, signs)
        self.frame, self.pad, self.pool, self.way = frame, pad, pool, way

    def forward(
        self, input: Float[Tensor, "..."], shortcut: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """The layer; with a shortcut, of a layer without a pool and with filters in order, `relu(layer + shortcut)`."""
        axes, folds = len(self.frame.kernel), self.folds
        if input.dim() == axes + 1:
            return self.forward(input.unsqueeze(0), None if shortcut is None else shortcut.unsqueeze(0)).squeeze(0)
        wanted = folds.groups * folds.channels
        if input.dim() != axes + 2 or input.shape[1] != wanted:
            raise RuntimeError(
                f"expected {wanted} channels and {axes} spatial axes, got an input of shape {tuple(input.shape)}"
            )
        x = self.selection.inputs(input, 1)
        matrix = self.matrix if self.mixture is None else self.mixture(mean_maps(x, folds), self.matrix)
        y = self._run(in_autocast(x if self.pad is None else F.pad(x, self.pad[0], self.pad[1])), shortcut, matrix)
        return self.selection.outputs(y, 1)

    def _run(
        self, x: Float[Tensor, "b c *size"], shortcut: Tensor | None, matrix: Float[Tensor, "*r k g"]
    ) -> Float[Tensor, "b n *out"]:
        """The layer on its padded input, with what was folded in, by standard operators."""
        y = self._product(x, matrix) if self.way == "product" else self._convolution(x, matrix)
        y = y if shortcut is None else y.add_(shortcut)
        y = F.relu(y, inplace=not y.requires_grad) if self.relu or shortcut is not None else y
        return y if self.pool == 1 else F.max_pool2d(y.unsqueeze(2), (1, self.pool)).squeeze(2)

    def _convolution(self, x: Float[Tensor, "b c *size"], matrix: Tensor) -> Float[Tensor, "b n *out"]:
        f, padding = self.frame, tuple(before for before, _ in self.frame.padding)
        if any(before != after for before, after in f.padding):
            x, padding = F.pad(x, [n for pair in reversed(f.padding) for n in pair]), (0,) * len(padding)
        return convolve(
            x, *self.placed(x.dtype), matrix, self.folds, f.stride, padding, f.dilation, last=self.way == "last"
        )

    def _product(self, x: Float[Tensor, "b c *size"], matrix: Tensor) -> Float[Tensor, "b n *size"]:
        return multiply_maps(x, *self.placed(x.dtype), matrix, self.folds, self.frame.stride)

    def extra_repr(self) -> str:
        f, s = self.folds, self.frame
        text = f"{f.groups * f.channels}, {f.filters}, kernel_size={s.kernel}, stride={s.stride}, padding={s.padding}"
        more = f"{', relu' if self.relu else ''}{f', max-pool {self.pool}' if self.pool > 1 else ''}"
        return f"{text}, {f.windows} channel groups, {f.blocks} blocks, {self.way}{more}"


class FoldedRows(Folded):
    """A linear layer with folds, for inference; its children say how they keep the filters."""

    def forward(self, input: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        if input.dim() == 0 or input.shape[-1] != self.folds.channels:
            raise RuntimeError(f"expected {self.folds.channels} features, got an input of shape {tuple(input.shape)}")
        x = self.selection.inputs(in_autocast(input), -1)
        matrix = self.matrix if self.mixture is None else self.mixture(mean_rows(x, self.folds), self.matrix)
        return self.selection.outputs(self._run(x, matrix), -1)

    def _run(self, x: Float[Tensor, "*batch m"], matrix: Float[Tensor, "*r k g"]) -> Float[Tensor, "*batch n"]:
        """The layer with what was folded in, by standard operators."""
        y = multiply(x, *self.placed(x.dtype), matrix, self.folds)
        return F.relu(y, inplace=not y.requires_grad) if self.relu else y

    def extra_repr(self) -> str:
        f = self.folds
        return f"{f.channels}, {f.filters}, {f.windows} groups, {f.blocks} blocks{', relu' if self.relu else ''}"


class FoldedConv(FoldedMaps):
    """A convolution with folds in standard operators; made by `autosample.deploy`.

    Args:
        folds, frame: What to compute.
        filters: One window of the summary per filter, `(N, Q, *kernel)`, with a norm's factors.
        bias: `(N,)` or `None`.
        pad, relu, pool, way, selection, mixture, signs: As for `FoldedMaps`.
    """

    filters: Tensor

    def __init__(
        self,
        folds: Folds,
        frame: Frame,
        filters: Float[Tensor, "n q *kernel"],
        *,
        bias: Float[Tensor, " n"] | None = None,
        **options: Any,
    ) -> None:
        filters = folds.spread(filters.detach()).clone()
        super().__init__(folds, frame, filters, bias=None if bias is None else folds.spread(bias), **options)
        if self.way == "last":
            filters = filters.to(memory_format=LAST[filters.dim()])
        self.register_buffer("filters", filters)

    def placed(self, dtype: torch.dtype) -> tuple[Float[Tensor, "p q *kernel"], Float[Tensor, " p"] | None]:
        return self.filters, self.bias


class FoldedLinear(FoldedRows):
    """A linear layer with folds in standard operators; arguments as for `FoldedConv`."""

    filters: Tensor

    def __init__(
        self,
        folds: Folds,
        filters: Float[Tensor, "n q"],
        *,
        bias: Float[Tensor, " n"] | None = None,
        relu: bool = False,
        selection: Selection = IN_ORDER,
        mixture: Mixture | None = None,
        signs: Float[Tensor, "k g"] | None = None,
    ) -> None:
        filters = folds.spread(filters.detach()).clone()
        super().__init__(folds, 1, filters, bias, relu, selection, mixture, signs)
        self.register_buffer("filters", filters)

    def placed(self, dtype: torch.dtype) -> tuple[Float[Tensor, "p q"], Float[Tensor, " n"] | None]:
        return self.filters, self.bias
