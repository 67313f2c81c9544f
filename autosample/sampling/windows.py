"""Cutting windows out of a summary, mixing neighbouring ones, and the adjoint of both.

Windows have the shape `(…, Q, window)`, the order in which a weight needs them. Offsets are integers `(N, G)`; row
indices are computed from them when used and never kept, forward or backward. The work is done in blocks that stay in
the cache: passes over a block are several times cheaper than passes over a weight.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Elements of one block: small enough to stay in cache, large enough to hide the cost of a call.
_BLOCK = 1 << 17


@dataclass(frozen=True)
class Placement:
    """Where each window lies: `window[n, g] = Σ_j weights[n, g, j] · Φ[base[n, g] + j·step + …]`.

    Attributes:
        base: First offset of each window, shape `(N, G)` [summary rows].
        weights: Mixing weights of `J` neighbouring windows, shape `(N, G, J)`; `None` where `base` is the offset.
        step: Distance between those neighbours [summary rows].
        hard: Forward takes the neighbour with the largest weight; backward differentiates the mixture
            (straight-through), so that `∂W/∂weights[j]` is the window at neighbour `j`.
        pattern: The rows of a window from its offset on, `(w,)`; `None` for consecutive ones.
        corners: With a pattern, the distances of the neighbours, `(J,)`, in the place of `j·step`.
    """

    base: Int[Tensor, "n g"]
    weights: Float[Tensor, "n g j"] | None = None
    step: int = 1
    hard: bool = False
    pattern: Int[Tensor, "w"] | None = None
    corners: Int[Tensor, "j"] | None = None


def cut_windows(summary: Float[Tensor, "l q"], placement: Placement, window: int) -> Float[Tensor, "n g q w"]:
    """Windows of `window` rows at `placement`; differentiable in the summary and in the weights."""
    if placement.pattern is not None:
        return _boxes(summary, placement, placement.pattern)
    filters, count = placement.base.shape
    base = placement.base.reshape(-1)
    if placement.weights is None:
        windows = _Gather.apply(summary, base, window)
    else:
        weights = placement.weights.reshape(filters * count, -1).to(summary.dtype)
        windows = _Blend.apply(summary, base, weights, window, placement.step, placement.hard)
    return windows.view(filters, count, summary.shape[1], window)


def _boxes(summary: Float[Tensor, "l q"], placement: Placement, pattern: Int[Tensor, "w"]) -> Float[Tensor, "n g q w"]:
    """Windows of rows that are not consecutive."""
    rows = placement.base.unsqueeze(-1) + pattern
    if placement.weights is None or placement.corners is None:
        return summary[rows].transpose(2, 3)
    weights = placement.weights.to(summary.dtype).unsqueeze(-1).unsqueeze(-1)
    parts = [summary[rows + jump] * weights[:, :, j] for j, jump in enumerate(placement.corners)]
    return torch.stack(parts).sum(0).transpose(2, 3)


def multiplicity(offsets: Int[Tensor, "n g"], window: int, length: int) -> Int[Tensor, "l"]:
    """How many windows cover each summary row, which is the number of weights per element of that row."""
    edges = torch.zeros(length + 1, dtype=torch.long, device=offsets.device)
    start = offsets.reshape(-1).long()
    ones = torch.ones_like(start)
    edges = edges.scatter_add(0, start, ones).scatter_add(0, start + window, -ones)
    return edges.cumsum(0)[:length]


def gather_windows(summary: Float[Tensor, "l q"], base: Int[Tensor, "p"], window: int) -> Float[Tensor, "p q w"]:
    """Rows `base[p] … base[p] + window − 1` for every `p`."""
    # a strided view of all overlapping windows: chosen ones are copied whole, without row indices
    return summary.unfold(0, window, 1).index_select(0, base)


def scatter_windows(windows: Float[Tensor, "p q w"], base: Int[Tensor, "p"], length: int) -> Float[Tensor, "l q"]:
    """The adjoint of `gather_windows`: overlapping windows add up in a summary of `length` rows."""
    total = windows.new_zeros(length, windows.shape[1])
    for block in _blocks(windows):
        total = _add_rows(total, windows[block].transpose(1, 2).contiguous(), base[block])
    return total


def _rows(base: Int[Tensor, "p"], window: int) -> Int[Tensor, "pw"]:
    return (base[:, None] + torch.arange(window, device=base.device)).view(-1) if window > 1 else base


def _take_rows(summary: Float[Tensor, "l q"], base: Int[Tensor, "p"], window: int) -> Float[Tensor, "p w q"]:
    """Windows in the summary's memory order, where a neighbouring window is the same block, shifted."""
    columns = summary.shape[1]
    if columns == 1:
        return gather_windows(summary, base, window).transpose(1, 2)
    return summary.index_select(0, _rows(base, window)).view(-1, window, columns)


def _add_rows(
    total: Float[Tensor, "l q"], windows: Float[Tensor, "p w q"], base: Int[Tensor, "p"]
) -> Float[Tensor, "l q"]:
    """Add windows in the summary's memory order to `total`, in place, and return it."""
    window, columns = windows.shape[1:]
    rows = _rows(base, window)
    if columns == 1:
        return total.view(-1).scatter_add_(0, rows, windows.reshape(-1)).view(-1, 1)
    return total.index_add_(0, rows, windows.reshape(-1, columns))


def _blocks(windows: Float[Tensor, "p q w"]) -> Iterator[slice]:
    """Runs of whole windows, one block each. A compiler gets one run, because it tiles by itself."""
    count, columns, window = windows.shape
    size = count if torch.compiler.is_compiling() else _BLOCK * torch.get_num_threads() // max(columns * window, 1)
    size = max(size, 1)
    yield from (slice(start, start + size) for start in range(0, count, size))


class _Function(torch.autograd.Function):
    """An autograd function that `torch.func.vmap` runs example by example: its blocks are filled in place."""

    @classmethod
    def vmap(cls, info, in_dims, *args):  # pyright: ignore[reportIncompatibleMethodOverride]
        def example(i: int) -> list:
            return [a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)]

        results = [cls.apply(*example(i)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])


class _Gather(_Function):
    """`gather_windows` whose backward recomputes row indices instead of keeping them."""

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
        return _Scatter.apply(grad, base, ctx.length), None, None


class _Scatter(_Function):
    """`scatter_windows`; its derivative is the gather again."""

    @staticmethod
    def forward(windows: Tensor, base: Tensor, length: int) -> Tensor:
        return scatter_windows(windows, base, length)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        windows, base, _ = inputs
        ctx.save_for_backward(base)
        ctx.window = windows.shape[2]

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (base,) = ctx.saved_tensors
        return _Gather.apply(grad, base, ctx.window), None, None


class _Blend(_Function):
    """A mixture of `J` neighbouring windows, or the largest of them with the mixture's gradient."""

    @staticmethod
    def forward(summary: Tensor, base: Tensor, weights: Tensor, window: int, step: int, hard: bool) -> Tensor:
        if hard:
            return gather_windows(summary, base + step * weights.argmax(1), window)
        count = weights.shape[1]
        out = summary.new_empty(len(base), summary.shape[1], window)
        for block in _blocks(out):
            wide = _take_rows(summary, base[block], window + (count - 1) * step)
            mixed = wide[:, :window] * weights[block, 0, None, None]
            for j in range(1, count):
                mixed.addcmul_(wide[:, j * step : j * step + window], weights[block, j, None, None])
            out[block] = mixed.transpose(1, 2)
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *tensors, ctx.window, ctx.step, ctx.hard = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        d_summary, d_weights = _BlendAdjoint.apply(grad, *ctx.saved_tensors, ctx.step, ctx.hard)
        return d_summary, None, d_weights, None, None, None


class _BlendAdjoint(_Function):
    """Gradients of `_Blend` for its summary and its weights. Differentiating once more is not supported."""

    @staticmethod
    def forward(
        grad: Tensor, summary: Tensor, base: Tensor, weights: Tensor, step: int, hard: bool
    ) -> tuple[Tensor, Tensor]:
        window, count = grad.shape[2], weights.shape[1]
        d_summary, d_weights = torch.zeros_like(summary), torch.empty_like(weights)
        for block in _blocks(grad):
            part = grad[block].transpose(1, 2).contiguous()
            wide = _take_rows(summary, base[block], window + (count - 1) * step)
            for j in range(count):
                d_weights[block, j] = (part * wide[:, j * step : j * step + window]).flatten(1).sum(1)
            if hard:
                d_summary = _add_rows(d_summary, part, base[block] + step * weights[block].argmax(1))
                continue
            d_wide = torch.zeros_like(wide, memory_format=torch.contiguous_format)
            for j in range(count):
                d_wide[:, j * step : j * step + window].addcmul_(part, weights[block, j, None, None])
            d_summary = _add_rows(d_summary, d_wide, base[block])
        return d_summary, d_weights

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("autosample: a mixture of windows can be differentiated only once")
