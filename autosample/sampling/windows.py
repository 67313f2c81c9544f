"""Cutting windows out of a summary, mixing neighbouring ones, and the adjoint of both.

Positions are integers `(N, G)`; row indices are computed from them when used and never kept, forward or backward.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Where every window lies: `window[n, g] = Σ_j weights[n, g, j] · Φ[base[n, g] + j·step + …]`.

    Attributes:
        base: First position of each window, shape `(N, G)` [summary rows].
        weights: Mixing weights of `J` neighbouring windows, shape `(N, G, J)`; `None` where `base` is the position.
        step: Distance between those neighbours [summary rows].
        hard: Forward takes the one neighbour of largest weight; backward differentiates the mixture
            (straight-through), so that `∂W/∂weights[j]` is the window at neighbour `j`.
    """

    base: Int[Tensor, "n g"]
    weights: Float[Tensor, "n g j"] | None = None
    step: int = 1
    hard: bool = False


def cut_windows(summary: Float[Tensor, "l q"], placement: Placement, window: int) -> Float[Tensor, "n g w q"]:
    """Windows of `window` rows at the places of `placement`; differentiable in the summary and in the weights."""
    filters, groups = placement.base.shape
    base = placement.base.reshape(-1)
    if placement.weights is None:
        windows = _Gather.apply(summary, base, window)
    else:
        weights = placement.weights.reshape(filters * groups, -1).to(summary.dtype)
        windows = _Blend.apply(summary, base, weights, window, placement.step, placement.hard)
    return windows.view(filters, groups, window, summary.shape[1])


def compose(first: Placement, second: Placement) -> Placement:
    """The placement `o = a + b` of two that broadcast to one another: mixtures of shifts compose by convolution.

    Two hard choices stay hard: the largest product is the product of the largest.
    """
    base = first.base + second.base
    if first.weights is None and second.weights is None:
        return Placement(base)
    if first.weights is None or second.weights is None:
        one = second if first.weights is None else first
        assert one.weights is not None
        return Placement(base, one.weights.expand(*base.shape, -1), one.step, one.hard)
    a, b = first.weights, second.weights
    out = a.new_zeros(*base.shape, a.shape[-1] + b.shape[-1] - 1)
    for j in range(b.shape[-1]):
        left = torch.nn.functional.pad(a * b[..., j : j + 1], (j, b.shape[-1] - 1 - j))
        out = out + left
    return Placement(base, out, first.step, first.hard and second.hard)


def multiplicity(positions: Int[Tensor, "n g"], window: int, length: int) -> Int[Tensor, "l"]:
    """How many windows cover each summary row, of any column (a filter-wise count of weights per element)."""
    edges = torch.zeros(length + 1, dtype=torch.long, device=positions.device)
    ones = torch.ones(positions.numel(), dtype=torch.long, device=positions.device)
    start = positions.reshape(-1).long()
    edges = edges.scatter_add(0, start, ones).scatter_add(0, start + window, -ones)
    return edges.cumsum(0)[:length]


def gather_windows(summary: Float[Tensor, "l q"], base: Int[Tensor, "p"], window: int) -> Float[Tensor, "p w q"]:
    """Rows `base[p] … base[p] + window − 1` for every `p`."""
    columns = summary.shape[1]
    if columns == 1:
        # a strided view of overlapping windows: rows are copied whole and no row index is made
        return summary[:, 0].unfold(0, window, 1).index_select(0, base).unsqueeze(2)
    return summary.index_select(0, _rows(base, window)).view(-1, window, columns)


def scatter_windows(windows: Float[Tensor, "p w q"], base: Int[Tensor, "p"], length: int) -> Float[Tensor, "l q"]:
    """The adjoint of `gather_windows`: overlapping windows add up in a summary of `length` rows."""
    columns = windows.shape[2]
    rows = _rows(base, windows.shape[1])
    if columns == 1:
        return windows.new_zeros(length).scatter_add_(0, rows, windows.reshape(-1)).unsqueeze(1)
    return windows.new_zeros(length, columns).index_add_(0, rows, windows.reshape(-1, columns))


def _rows(base: Int[Tensor, "p"], window: int) -> Int[Tensor, "pw"]:
    if window == 1:
        return base
    return (base[:, None] + torch.arange(window, device=base.device)).view(-1)


class _Gather(torch.autograd.Function):
    """`gather_windows` whose backward recomputes row indices instead of keeping them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(summary: Tensor, base: Tensor, window: int) -> Tensor:
        return gather_windows(summary, base, window)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        summary, base, _ = inputs
        ctx.save_for_backward(base)
        ctx.length = summary.shape[0]

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (base,) = ctx.saved_tensors
        return scatter_windows(grad.contiguous(), base, ctx.length), None, None


class _Blend(torch.autograd.Function):
    """A mixture of `J` neighbouring windows, or the largest of them with the mixture's gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(summary: Tensor, base: Tensor, weights: Tensor, window: int, step: int, hard: bool) -> Tensor:
        if hard:
            return gather_windows(summary, base + step * weights.argmax(1), window)
        wide = gather_windows(summary, base, window + (weights.shape[1] - 1) * step)
        out = wide[:, :window] * weights[:, 0, None, None]
        for j in range(1, weights.shape[1]):
            out.addcmul_(wide[:, j * step : j * step + window], weights[:, j, None, None])
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        summary, base, weights, window, step, hard = inputs
        ctx.save_for_backward(summary, base, weights)
        ctx.window, ctx.step, ctx.hard = window, step, hard

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        summary, base, weights = ctx.saved_tensors
        window, step, count = ctx.window, ctx.step, weights.shape[1]
        grad = grad.contiguous()
        wide = gather_windows(summary, base, window + (count - 1) * step)
        slices = [wide[:, j * step : j * step + window] for j in range(count)]
        d_weights = torch.stack([_inner(grad, piece) for piece in slices], 1)
        if ctx.hard:
            d_summary = scatter_windows(grad, base + step * weights.argmax(1), summary.shape[0])
            return d_summary, None, d_weights, None, None, None
        d_wide = torch.zeros_like(wide)
        for j in range(count):
            d_wide[:, j * step : j * step + window].addcmul_(grad, weights[:, j, None, None])
        return scatter_windows(d_wide, base, summary.shape[0]), None, d_weights, None, None, None


def _inner(a: Float[Tensor, "p w q"], b: Float[Tensor, "p w q"]) -> Float[Tensor, "p"]:
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))
