"""Scalar quantisation: evenly spaced levels, k-means in one dimension, and DKM's soft assignments.

* Evenly spaced levels: WSNet (Jin et al. 2018, section 4: 256 bins between the minimum and the maximum of a layer) and
  FSNet-WQ (Yang et al. 2020).
* Codebooks: Deep k-Means (Wu et al. 2018) and DKM (Cho et al. 2022, section 3), here of single numbers.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LLOYD_STEPS = 200
_BINS = 4096
# DKM: soft assignments look at this many neighbouring levels, and k-means continues until levels move by less than this
# share of the range, or for this many steps.
_NEIGHBOURS = 4
_SETTLED = 1e-4
_SOFT_STEPS = 5


def even_range(values: Float[Tensor, "*shape"], bits: int) -> Float[Tensor, "2"]:
    """Lowest level and distance of `2**bits` evenly spaced levels from the minimum to the maximum."""
    low, high = values.detach().float().aminmax()
    return torch.stack([low, (high - low) / (2**bits - 1)])


def even_levels(span: Float[Tensor, "2"], bits: int) -> Float[Tensor, "k"]:
    """The levels `low + step·code`."""
    # two operations, not one fused: every machine must get the same numbers
    return torch.arange(2**bits, device=span.device, dtype=torch.float32) * span[1] + span[0]


def even_ranges(values: Float[Tensor, "n *rest"], bits: int) -> Float[Tensor, "n 2"]:
    """`even_range` of each index of the first axis."""
    low, high = values.detach().float().flatten(1).aminmax(dim=1)
    return torch.stack([low, (high - low) / (2**bits - 1)], 1)


def even_codes(values: Float[Tensor, "n *rest"], spans: Float[Tensor, "n 2"], bits: int) -> Int[Tensor, "n *rest"]:
    """The number of the level nearest to each value, where each index of the first axis has its own levels."""
    low, step = _beside(spans, values)
    steps = (values.detach().float() - low) / step.clamp_min(torch.finfo(torch.float32).tiny)
    return steps.round().clamp_(0, 2**bits - 1).long()


def even_values(codes: Int[Tensor, "n *rest"], spans: Float[Tensor, "n 2"]) -> Float[Tensor, "n *rest"]:
    """The inverse of `even_codes`, up to rounding."""
    low, step = _beside(spans, codes)
    # two operations, as in `even_levels`
    return codes.float() * step + low


def _beside(spans: Float[Tensor, "n 2"], values: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest levels and distances, in shapes that broadcast with the values."""
    low, step = spans.view(len(spans), 2, *[1] * (values.ndim - 1)).unbind(1)
    return low, step


def nearest_level(values: Float[Tensor, "*shape"], levels: Float[Tensor, "k"]) -> Int[Tensor, "*shape"]:
    """The index of the level nearest to each value; a value that equals a level gets that level. Levels ascend."""
    wide = values.detach().to(levels.dtype).contiguous()
    upper = torch.searchsorted(levels, wide).clamp_(1, len(levels) - 1)
    below = (wide - levels[upper - 1]) < (levels[upper] - wide)
    return upper - below.long()


@torch.no_grad()
def kmeans_levels(values: Float[Tensor, "*shape"], bits: int) -> Float[Tensor, "k"]:
    """`2**bits` levels by Lloyd's k-means: deterministic, with exact sums for any number of values.

    It starts from levels of a cube-root density (Panter and Dite 1951), which is near the optimum for many levels.
    """
    ordered = values.detach().double().reshape(-1).sort().values
    sums, squares = (torch.nn.functional.pad(x.cumsum(0), (1, 0)) for x in (ordered, ordered.square()))
    levels = _cube_root_start(ordered, 2**bits)
    for _ in range(_LLOYD_STEPS):
        ends = torch.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2, right=True)
        edges = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(ordered))])
        counts = edges.diff()
        means = torch.where(counts > 0, sums[edges].diff() / counts.clamp_min(1), levels)
        if (counts == 0).any():  # empty clusters split the worst ones, as usual in k-means
            spread = squares[edges].diff() - means.square() * counts
            empty = (counts == 0).nonzero()[:, 0]
            worst = spread.topk(min(len(empty), len(levels) - len(empty))).indices
            means[empty[: len(worst)]] = means[worst] + (spread / counts.clamp_min(1)).clamp_min(0).sqrt()[worst]
        means = means.sort().values
        if torch.equal(means, levels):
            break
        levels = means
    return levels.float()


def _cube_root_start(ordered: Float[Tensor, "n"], count: int) -> Float[Tensor, "k"]:
    low, high = ordered[0], ordered[-1]
    middle = (torch.arange(count, device=ordered.device, dtype=ordered.dtype) + 0.5) / count
    if not high > low:
        return low.expand(count).clone()
    number = min(_BINS, max(len(ordered) // 64, 4))
    bins = ((ordered - low) / (high - low) * number).long().clamp_(0, number - 1)
    density = torch.bincount(bins, minlength=number).to(ordered.dtype).pow(1 / 3)
    share = torch.nn.functional.pad(density.cumsum(0) / density.sum(), (1, 0))
    upper = torch.searchsorted(share, middle).clamp_(1, number)
    inside = (middle - share[upper - 1]) / (share[upper] - share[upper - 1]).clamp_min(1e-12)
    return low + (upper - 1 + inside) / number * (high - low)


def soft_kmeans(
    values: Float[Tensor, "*shape"], levels: Float[Tensor, "k"], temperature: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "k"]]:
    """DKM: values as mixtures of levels, differentiable, and the levels after some steps of soft k-means.

    `A = softmax(−|w − c|/τ)` over the four levels nearest to each value (the others' shares vanish at useful
    temperatures), `c = Σ A·w / Σ A` until the levels settle, then `W̃ = A·C`. Autograd runs through all steps.

    Args:
        values: Values to quantise, any shape.
        levels: The levels of the last batch, ascending, shape `(K,)`.
        temperature: `τ` as a share of the mean distance between levels.
    """
    flat = values.reshape(-1).float()
    for _ in range(_SOFT_STEPS):
        near, shares = _shares(flat, levels, temperature)
        total = flat.new_zeros(len(levels)).index_add(0, near.reshape(-1), shares.reshape(-1))
        mass = flat.new_zeros(len(levels)).index_add(0, near.reshape(-1), (shares * flat[:, None]).reshape(-1))
        moved = torch.where(total > 1e-6, mass / total.clamp_min(1e-6), levels.detach())
        moved, before = moved.sort().values, levels
        levels = moved
        step, size = (moved - before).detach().abs().max(), (before[-1] - before[0]).detach()
        if not torch.compiler.is_compiling() and step <= _SETTLED * size:  # a graph cannot look: it makes all steps
            break
    near, shares = _shares(flat, levels, temperature)
    return (levels[near] * shares).sum(1).view(values.shape).to(values.dtype), levels


def _shares(
    flat: Float[Tensor, "n"], levels: Float[Tensor, "k"], temperature: float
) -> tuple[Int[Tensor, "n j"], Float[Tensor, "n j"]]:
    """The indices of the levels around each value, and the share of each."""
    fixed = levels.detach()
    count = min(_NEIGHBOURS, len(levels))
    first = (torch.searchsorted(fixed, flat.detach().contiguous()) - count // 2).clamp_(0, len(levels) - count)
    near = first[:, None] + torch.arange(count, device=flat.device)
    scale = temperature * ((fixed[-1] - fixed[0]) / max(len(levels) - 1, 1)).clamp_min(1e-12)
    return near, torch.softmax(-(flat[:, None] - levels[near]).abs() / scale, 1)
