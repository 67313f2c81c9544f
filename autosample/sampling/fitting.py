"""Fitting a summary, and learned offsets, to an existing dense weight (warm start).

For given offsets the least-squares summary has a closed form: every element is the average of its weights. For learned
offsets that step alternates with moving each window to the offset that fits it best; with disjoint windows this is
Lloyd's k-means.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.coding.clusters import cluster
from autosample.sampling.columns import Columns
from autosample.sampling.geometry import Geometry
from autosample.sampling.windows import gather_windows, scatter_windows

# Bounds the search for the best offset of a window: if there are more candidates than this, they are thinned out
# evenly.
_MOST_CANDIDATES = 2048
_ITERATIONS = 8


def fit_summary(
    windows: Float[Tensor, "n g q w"],
    offsets: Int[Tensor, "n g"],
    geometry: Geometry,
    *,
    columns: Columns | None = None,
    factors: Float[Tensor, "n #g"] | None = None,
    pattern: Int[Tensor, "w"] | None = None,
) -> Float[Tensor, "l q"]:
    """The summary closest to `windows` in the least-squares sense when they lie at `offsets` (overlap average).

    Rows that no window covers are zero. With a `pattern`, windows lie in these rows from their offsets on.
    """
    kept = geometry.to_windows(torch.ones_like(geometry.to_weight(windows)))  # zero where windows are cropped
    scale = (
        torch.ones_like(windows[..., :1, :1])
        if factors is None
        else factors[:, :, None, None].expand_as(windows[..., :1, :1])
    )
    total = _scatter(windows * scale * kept, offsets, geometry, columns, pattern)
    count = _scatter(kept * scale.square(), offsets, geometry, columns, pattern)
    return torch.where(count > 0, total / count.clamp_min(1e-30), 0.0)


def _scatter(
    windows: Float[Tensor, "n g q w"],
    offsets: Int[Tensor, "n g"],
    geometry: Geometry,
    columns: Columns | None,
    pattern: Int[Tensor, "w"] | None,
) -> Float[Tensor, "l q"]:
    if pattern is not None:
        rows = (offsets.unsqueeze(-1) + pattern).reshape(-1)
        parts = windows.transpose(2, 3).reshape(-1, windows.shape[2])
        return windows.new_zeros(geometry.length, windows.shape[2]).index_add(0, rows, parts)
    if columns is None:
        return scatter_windows(windows.flatten(0, 1), offsets.reshape(-1), geometry.length)
    count = offsets.shape[1]
    base = offsets + torch.arange(count, device=offsets.device) * geometry.length
    wide = scatter_windows(windows.flatten(0, 1), base.reshape(-1), count * geometry.length)
    return columns.narrow(wide)


def fit_offsets(
    windows: Float[Tensor, "n g q w"],
    geometry: Geometry,
    *,
    iterations: int = _ITERATIONS,
    seed: int = 0,
    zeros: float = 0.0,
) -> Int[Tensor, "n g"]:
    """Offsets found by alternating minimisation, starting from a summary made of some of the windows.

    Disjoint windows are clustered by k-means. There, the share `zeros` of them, the smallest, gets the first offset.
    """
    if geometry.grid == geometry.window:
        labels = cluster(windows.flatten(0, 1).flatten(1), geometry.choices, zeros=zeros, seed=seed)
        return labels.view(windows.shape[:2]) * geometry.grid
    generator = torch.Generator().manual_seed(seed)
    n, g, q, w = windows.shape
    flat = windows.reshape(n * g, q, w)
    chosen = torch.randperm(n * g, generator=generator)[: -(-geometry.length // w)].to(flat.device)
    summary = flat[chosen].transpose(1, 2).reshape(-1, q)
    if summary.shape[0] < geometry.length:
        summary = summary.repeat(-(-geometry.length // summary.shape[0]), 1)
    summary = summary[: geometry.length]
    base = torch.zeros(n * g, dtype=torch.long, device=flat.device)
    base = _nearest(flat, summary, base, geometry, 0)
    for iteration in range(1, iterations):
        summary = _reseed(flat, fit_summary(windows, base.view(n, g), geometry), base)
        base = _nearest(flat, summary, base, geometry, iteration)
    return base.view(n, g)


def _nearest(
    flat: Float[Tensor, "p q w"], summary: Float[Tensor, "l q"], base: Int[Tensor, "p"], geometry: Geometry, turn: int
) -> Int[Tensor, "p"]:
    """The candidate of smallest squared distance for each window; its present offset is a candidate too."""
    stride = -(-geometry.choices // _MOST_CANDIDATES)
    steps = torch.arange(turn % stride, geometry.choices, stride, device=flat.device)
    candidates = steps * geometry.grid
    best = _distance(flat, gather_windows(summary, base, geometry.window))
    targets = flat.flatten(1)
    for chunk in candidates.split(256):
        pieces = gather_windows(summary, chunk, geometry.window).flatten(1)
        distance = pieces.square().sum(1) - 2 * targets @ pieces.t()
        low, index = distance.min(1)
        low = low + targets.square().sum(1)
        better = low < best - 1e-12
        base = torch.where(better, chunk[index], base)
        best = torch.where(better, low, best)
    return base


def _distance(a: Float[Tensor, "p q w"], b: Float[Tensor, "p q w"]) -> Float[Tensor, "p"]:
    return (a - b).square().sum((1, 2))


def _reseed(
    flat: Float[Tensor, "p q w"], summary: Float[Tensor, "l q"], base: Int[Tensor, "p"]
) -> Float[Tensor, "l q"]:
    """Move the worst-fitting windows to unused rows of the summary, as k-means does with empty clusters."""
    window = flat.shape[2]
    used = scatter_windows(torch.ones_like(flat[:, :1]), base, summary.shape[0])[:, 0] > 0
    slots = summary.shape[0] // window
    empty = (~used[: slots * window].view(slots, window).any(1)).nonzero()[:, 0]
    if len(empty):
        error = _distance(flat, gather_windows(summary, base, window))
        worst = error.topk(min(len(empty), len(error))).indices
        summary = summary.clone()
        summary[: slots * window].view(slots, window, -1)[empty[: len(worst)]] = flat[worst].transpose(1, 2)
    return summary
