"""Shapes of a sampled layer, and the two layouts that turn windows into a dense weight and back.

Symbols as in the whole library: `N` filters, `M` input channels of a filter, `K` taps, `G` windows per filter,
`Q` summary columns (channels per window), `L` summary rows.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Kind = Literal["linear", "pointwise", "conv1d", "conv2d", "conv3d"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes that tie a summary `(L, Q)` to a dense weight `(N, M, *kernel)`.

    Attributes:
        layout: `taps`, where a window covers the taps of `Q` channels, or `flat`, where it covers `window` weights of
            the flattened filter and `Q = 1`.
        filters: `N`, the filters of the layer over all its convolution groups.
        channels: `M`, the input channels of one filter.
        kernel: Kernel size; empty for a linear layer.
        windows: `G`, windows per filter.
        length: `L`, rows of the summary.
        grid: Step between admissible offsets [rows].
        sampled: Filters that are sampled: `N`, or `D·N` with WSNet's denser sampling.
    """

    layout: Literal["taps", "flat"]
    filters: int
    channels: int
    kernel: tuple[int, ...]
    windows: int
    length: int
    grid: int
    sampled: int

    @property
    def taps(self) -> int:
        """`K`, the product of the kernel size."""
        return math.prod(self.kernel)

    @property
    def window(self) -> int:
        """Summary rows that one window covers."""
        return self.taps if self.layout == "taps" else -(-self.channels * self.taps // self.windows)

    @property
    def columns(self) -> int:
        """`Q`."""
        return -(-self.channels // self.windows) if self.layout == "taps" else 1

    @property
    def limit(self) -> int:
        """The largest admissible offset: `L − window`, rounded down to the grid."""
        return (self.length - self.window) // self.grid * self.grid

    @property
    def choices(self) -> int:
        """Number of admissible offsets."""
        return self.limit // self.grid + 1

    @property
    def dense(self) -> int:
        """Weights of the dense layer, `N·M·K`."""
        return self.filters * self.channels * self.taps

    @property
    def stored(self) -> int:
        """Numbers stored instead of the weight: summary, and the mixing matrix of denser sampling."""
        mixing = self.filters * self.sampled if self.sampled != self.filters else 0
        return self.length * self.columns + mixing

    @property
    def ratio(self) -> float:
        """Dense weights divided by stored numbers."""
        return self.dense / self.stored

    @property
    def multiplicity(self) -> float:
        """Average number of weights per element of the summary."""
        return self.sampled * self.channels * self.taps / (self.length * self.columns)

    def to_weight(self, windows: Float[Tensor, "n g q w"]) -> Float[Tensor, "n m *kernel"]:
        """Arrange windows as a weight. If `G` does not divide the filter, the surplus at its end is cropped."""
        # one pattern serves both layouts: with Q = 1 it flattens the filter, else q and k are channel and tap
        flat = rearrange(windows, "n g q w -> n (g q w)")
        if flat.shape[1] > self.channels * self.taps:
            flat = flat[:, : self.channels * self.taps]
        return flat.reshape(windows.shape[0], self.channels, *self.kernel)

    def to_windows(self, weight: Float[Tensor, "n m *kernel"]) -> Float[Tensor, "n g q w"]:
        """The inverse of `to_weight`; the cropped part is filled with zeros."""
        flat = weight.reshape(weight.shape[0], -1)
        flat = F.pad(flat, (0, self.windows * self.window * self.columns - flat.shape[1]))
        return flat.view(weight.shape[0], self.windows, self.columns, self.window)


def kind_of(kernel: tuple[int, ...]) -> Kind:
    """The layer kind, as in `Spec.by_kind`."""
    if not kernel:
        return "linear"
    if math.prod(kernel) == 1:
        return "pointwise"
    kinds: dict[int, Kind] = {1: "conv1d", 2: "conv2d", 3: "conv3d"}
    return kinds[len(kernel)]
