"""Codebooks of vectors: consecutive numbers share a code. DKM (Cho et al. 2022) with `b/d` bits a number."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.coding.clusters import Clusters

# As for single numbers: soft assignments look at this many codewords, and k-means continues until they settle.
_NEIGHBOURS = 4
_SETTLED = 1e-4
_SOFT_STEPS = 5
# Distances in memory at once.
_DISTANCES = 1 << 20


def as_rows(values: Float[Tensor, "*shape"], size: int) -> Float[Tensor, "n d"]:
    """The numbers in rows of `size`; zeros fill the last one."""
    flat = values.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


def from_rows(rows: Float[Tensor, "n d"], shape: torch.Size) -> Float[Tensor, "*shape"]:
    """The inverse of `as_rows`."""
    return rows.reshape(-1)[: shape.numel()].view(shape)


@torch.no_grad()
def codewords(rows: Float[Tensor, "n d"], count: int) -> Float[Tensor, "k d"]:
    """Codewords by k-means; zeros where fewer rows differ."""
    return Clusters.of(rows, count).means(rows)


@torch.no_grad()
def nearest_codewords(
    rows: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], count: int = 1
) -> Int[Tensor, "n count"]:
    """The nearest codewords of each row, the nearest first; a row that equals a codeword gets that one."""
    parts = rows.detach().to(codebook.dtype).split(max(_DISTANCES // len(codebook), 1))
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat(
        [torch.cdist(part, codebook, compute_mode=exact).topk(count, largest=False).indices for part in parts]
    )


def soft_vectors(
    values: Float[Tensor, "*shape"], codebook: Float[Tensor, "k d"], temperature: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "k d"]]:
    """Values as mixtures of codewords, differentiable, and the codewords after some steps of soft k-means.

    The same as `soft_kmeans`, with Euclidean distances, over the four codewords nearest to each vector.

    Args:
        values: Values to quantise.
        codebook: The codewords of the last batch.
        temperature: `τ` as a share of the mean distance of codewords from their nearest neighbours.
    """
    rows, count = as_rows(values, codebook.shape[1]).float(), len(codebook)
    for _ in range(_SOFT_STEPS):
        near, shares = _shares(rows, codebook, temperature)
        total = rows.new_zeros(count).index_add(0, near.reshape(-1), shares.reshape(-1))
        parts = (shares[:, :, None] * rows[:, None]).flatten(0, 1)
        mass = torch.zeros_like(codebook).index_add(0, near.reshape(-1), parts)
        before = codebook
        codebook = torch.where((total > 1e-6)[:, None], mass / total.clamp_min(1e-6)[:, None], before.detach())
        step, size = (codebook - before).detach().abs().max(), before.detach().abs().max()
        if not torch.compiler.is_compiling() and step <= _SETTLED * size:  # a graph cannot look: it makes all steps
            break
    near, shares = _shares(rows, codebook, temperature)
    shown = (codebook[near] * shares[:, :, None]).sum(1)
    return from_rows(shown, values.shape).to(values.dtype), codebook


def _shares(
    rows: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], temperature: float
) -> tuple[Int[Tensor, "n j"], Float[Tensor, "n j"]]:
    """The indices of the codewords around each row, and the share of each."""
    fixed = codebook.detach()
    near = nearest_codewords(rows, fixed, min(_NEIGHBOURS, len(fixed)))
    apart = torch.cdist(fixed, fixed).fill_diagonal_(float("inf")).min(1).values.mean()
    distances = (rows[:, None] - codebook[near]).square().sum(2).clamp_min(1e-20).sqrt()
    return near, torch.softmax(-distances / (temperature * apart).clamp_min(1e-12), 1)
