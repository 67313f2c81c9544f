"""Folds: the channel groups of an input added up with signs, a row of a Hadamard matrix for each block of filters.

`W[n, g, κ, q] = H[b(n), g] · Φ[o[n] + κ, q]`, so a layer is two standard operators: a product with `H` over the channel
groups, and a convolution with one group per block. Its work is that of the stored numbers. With one block this is
WSNet's channel sampling (Jin et al. 2018, section 3); with `H = I` it is a grouped convolution. Nothing is stored.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

#: The memory format with channels last, by the number of axes of a tensor.
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def hadamard(rows: Int[Tensor, "b"], columns: int, dtype: torch.dtype) -> Float[Tensor, "b g"]:
    """Rows of Sylvester's Hadamard matrix, cut to `columns`: `H[b, g] = (−1)^(number of ones in b AND g)`.

    The order of the matrix is the next power of two; its rows repeat after that. Only operators that exporters know.
    """
    column = torch.arange(columns, device=rows.device)
    signs = torch.ones(len(rows), columns, dtype=dtype, device=rows.device)
    for place in range(max(columns - 1, 0).bit_length()):
        ones = (rows // 2**place % 2)[:, None] * (column // 2**place % 2)
        signs = signs * (1 - 2 * ones).to(dtype)
    return signs


def order(windows: int) -> int:
    """The order of the smallest Hadamard matrix with that many columns, as a power of two."""
    return 1 << max(windows - 1, 0).bit_length()


@dataclass(frozen=True)
class Folds:
    """The folds of a layer.

    Attributes:
        filters: `N`, filters over all convolution groups.
        channels: `M`, input channels of one convolution group.
        windows: `G`, channel groups that are added up.
        blocks: `B`, blocks of filters in one convolution group: filter `n` of its `N` is in block `⌊n·B/N⌋`.
        groups: Convolution groups.
    """

    filters: int
    channels: int
    windows: int
    blocks: int
    groups: int = 1

    @property
    def columns(self) -> int:
        """`Q`, channels of one channel group; the last one may be shorter."""
        return -(-self.channels // self.windows)

    @property
    def largest(self) -> int:
        """Filters of the largest block."""
        return -(-self.filters // self.groups // self.blocks)

    @property
    def even(self) -> bool:
        """Whether all blocks have the same size."""
        return self.largest * self.blocks * self.groups == self.filters

    def block(self, device: torch.device | None = None) -> Int[Tensor, "n"]:
        """`b(n)`, the block of each filter within its convolution group."""
        each = self.filters // self.groups
        return torch.arange(self.filters, device=device) % each * self.blocks // each

    def matrix(self, dtype: torch.dtype, device: torch.device | None = None) -> Float[Tensor, "b g"]:
        """`H`, one row per block."""
        return hadamard(torch.arange(self.blocks, device=device), self.windows, dtype)

    def signs(self, dtype: torch.dtype, device: torch.device | None = None) -> Float[Tensor, "n g"]:
        """`H[b(n), g]`, the sign of each window."""
        return hadamard(self.block(device), self.windows, dtype)

    def places(self, device: torch.device | None = None) -> Int[Tensor, "n"]:
        """The place of each filter if every block has room for the largest one."""
        each, block = self.filters // self.groups, self.block(device)
        n = torch.arange(self.filters, device=device)
        first = -(-block * each // self.blocks)  # the first n with ⌊n·B/N⌋ = block
        return (n // each * self.blocks + block) * self.largest + n % each - first

    def spread(self, rows: Tensor) -> Tensor:
        """One row per filter → one per place; the places of no filter are zero."""
        if self.even:
            return rows
        filters = torch.arange(self.filters, device=rows.device)
        source = torch.full((self.groups * self.blocks * self.largest,), self.filters, device=rows.device)
        source = source.scatter(0, self.places(rows.device), filters)
        return torch.cat([rows, torch.zeros_like(rows[:1])]).index_select(0, source)

    def gather(self, y: Tensor, axis: int) -> Tensor:
        """One output per place → one per filter."""
        return y if self.even else y.index_select(axis, self.places(y.device))


def add_up(
    x: Float[Tensor, "batch c *size"], matrix: Float[Tensor, "*r b g"], folds: Folds
) -> Float[Tensor, "batch d *size"]:
    """The signed sums of the channel groups: `groups·M` channels become `groups·B·Q`, a block's `Q` side by side.

    `matrix` may have one entry for each example and convolution group, `(batch·groups, B, G)`.
    """
    size, q = x.shape[2:], folds.columns
    parts = x.reshape(x.shape[0] * folds.groups, folds.channels, -1)
    if surplus := folds.windows * q - folds.channels:
        parts = F.pad(parts, (0, 0, 0, surplus))
    # not `len(parts)`: a graph with any batch would get the batch of its example
    sums = matrix.to(x.dtype) @ parts.reshape(parts.shape[0], folds.windows, -1)
    return sums.reshape(x.shape[0], folds.groups * folds.blocks * q, *size)


def add_up_features(
    x: Float[Tensor, "*batch m"], matrix: Float[Tensor, "*r b g"], folds: Folds
) -> Float[Tensor, "b rows q"]:
    """The same for the features of a linear layer, block by block; `rows` counts the vectors.

    `matrix` may have one entry for each example along the first axis, `(batch, B, G)`.
    """
    q = folds.columns
    rows = x.reshape(-1, folds.channels)
    if surplus := folds.windows * q - folds.channels:
        rows = F.pad(rows, (0, surplus))
    if matrix.dim() == 3:
        parts = rows.view(matrix.shape[0], -1, folds.windows, q).transpose(1, 2).flatten(2)
        sums = (matrix.to(x.dtype) @ parts).view(matrix.shape[0], folds.blocks, -1, q)
        return sums.transpose(0, 1).flatten(1, 2)
    # one product for all rows: with the groups first, it is twice as fast as one per row
    parts = rows.view(-1, folds.windows, q).transpose(0, 1).reshape(folds.windows, -1)
    return (matrix.to(x.dtype) @ parts).view(folds.blocks, -1, q)


def convolve(
    x: Float[Tensor, "batch c *size"],
    filters: Float[Tensor, "p q *kernel"],
    bias: Float[Tensor, " p"] | None,
    matrix: Float[Tensor, "*r b g"],
    folds: Folds,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...],
    last: bool = False,
) -> Float[Tensor, "batch n *out"]:
    """The convolution with the folded weight; `filters` and `bias` as `Folds.spread` gives them.

    With `last`, it runs with channels last; the result has the layout of `x`.
    """
    run = (F.conv1d, F.conv2d, F.conv3d)[filters.dim() - 3]
    sums = add_up(x, matrix, folds)
    if last:
        sums, filters = (t.contiguous(memory_format=LAST[t.dim()]) for t in (sums, filters))
    y = run(sums, filters, bias, stride, padding, dilation, folds.groups * folds.blocks)
    if last and not _channels_last(x):
        y = y.contiguous()  # as of torch's own layers: what follows may take views
    return folds.gather(y, 1)


def multiply_maps(
    x: Float[Tensor, "batch c *size"],
    filters: Float[Tensor, "p q *one"],
    bias: Float[Tensor, " p"] | None,
    matrix: Float[Tensor, "*r b g"],
    folds: Folds,
    stride: tuple[int, ...],
) -> Float[Tensor, "batch n *out"]:
    """The same for kernels of one tap without padding, as a product of matrices; the result keeps the layout of `x`."""
    if any(step > 1 for step in stride):
        x = x[(slice(None), slice(None), *(slice(None, None, step) for step in stride))]
    if folds.groups == 1 and _channels_last(x):
        y = multiply(x.movedim(1, -1), filters.flatten(1), None, matrix, folds).movedim(-1, 1)
        return y if bias is None else y + folds.gather(bias, 0).to(y.dtype).view(-1, *[1] * (x.dim() - 2))
    blocks = folds.groups * folds.blocks
    sums = add_up(x, matrix, folds).reshape(x.shape[0], blocks, folds.columns, -1)
    y = filters.to(sums.dtype).reshape(blocks, folds.largest, folds.columns) @ sums
    y = y.reshape(x.shape[0], blocks * folds.largest, *x.shape[2:])
    y = y if bias is None else y + bias.to(y.dtype).view(-1, *[1] * (x.dim() - 2))
    return folds.gather(y, 1)


def _channels_last(x: Tensor) -> bool:
    if x.dim() not in LAST or torch._C._are_functorch_transforms_active():
        return False
    return not x.is_contiguous() and x.is_contiguous(memory_format=LAST[x.dim()])


def multiply(
    x: Float[Tensor, "*batch m"],
    filters: Float[Tensor, "p q"],
    bias: Float[Tensor, " n"] | None,
    matrix: Float[Tensor, "*r b g"],
    folds: Folds,
) -> Float[Tensor, "*batch n"]:
    """The linear layer with the folded weight; `filters` as `Folds.spread` gives them."""
    sums = add_up_features(x, matrix, folds)
    blocks = filters.view(folds.blocks, folds.largest, folds.columns)
    y = (sums @ blocks.transpose(1, 2)).transpose(0, 1).flatten(1)
    y = folds.gather(y, 1).view(*x.shape[:-1], folds.filters)
    return y if bias is None else y + bias.to(y.dtype)
