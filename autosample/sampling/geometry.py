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

from autosample.spec import Kind


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes that tie a summary `(L, Q)` to a dense weight `(N, M, *kernel)`.

    Attributes:
        layout: `taps`, where a window covers the taps of `Q` channels, or `flat`, where it covers `window` weights of
            the unrolled filter and `Q = 1`.
        filters: `N`, the filters of the layer over all its convolution groups.
        channels: `M`, the input channels of one filter.
        kernel: Kernel size; empty for a linear layer.
        windows: `G`, windows per filter.
        length: `L`, rows of the summary.
        grid: Step between admissible positions [rows].
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
        """The largest admissible position: `L − window`, rounded down to the grid."""
        return (self.length - self.window) // self.grid * self.grid

    @property
    def positions(self) -> int:
        """How many admissible positions there are."""
        return self.limit // self.grid + 1

    @property
    def dense(self) -> int:
        """Weights of the dense layer, `N·M·K`."""
        return self.filters * self.channels * self.taps

    @property
    def stored(self) -> int:
        """Numbers stored in place of the weight: summary, and the mixing matrix of denser sampling."""
        mixing = self.filters * self.sampled if self.sampled != self.filters else 0
        return self.length * self.columns + mixing

    @property
    def ratio(self) -> float:
        """Dense weights divided by stored numbers."""
        return self.dense / self.stored

    @property
    def multiplicity(self) -> float:
        """How many weights an element of the summary serves, on average."""
        return self.sampled * self.channels * self.taps / (self.length * self.columns)

    def to_weight(self, windows: Float[Tensor, "n g w q"]) -> Float[Tensor, "n m *kernel"]:
        """Lay windows out as a weight; where `G` does not divide the filter, the surplus at its end is cropped."""
        if self.layout == "taps":
            flat = rearrange(windows, "n g k q -> n (g q) k")[:, : self.channels]
        else:
            flat = rearrange(windows, "n g j 1 -> n (g j)")[:, : self.channels * self.taps]
        return flat.reshape(windows.shape[0], self.channels, *self.kernel)

    def to_windows(self, weight: Float[Tensor, "n m *kernel"]) -> Float[Tensor, "n g w q"]:
        """The inverse of `to_weight`; cropped places are filled with zeros."""
        n = weight.shape[0]
        if self.layout == "taps":
            flat = weight.reshape(n, self.channels, self.taps)
            flat = F.pad(flat, (0, 0, 0, self.windows * self.columns - self.channels))
            return rearrange(flat, "n (g q) k -> n g k q", g=self.windows)
        flat = F.pad(weight.reshape(n, -1), (0, self.windows * self.window - self.channels * self.taps))
        return rearrange(flat, "n (g j) -> n g j 1", g=self.windows)


def kind_of(kernel: tuple[int, ...]) -> Kind:
    """The layer kind that `Spec.by_kind` speaks of."""
    if not kernel:
        return "linear"
    if math.prod(kernel) == 1:
        return "pointwise"
    return "conv1d" if len(kernel) == 1 else "conv2d"
