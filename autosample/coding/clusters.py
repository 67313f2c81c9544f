"""k-means of windows: codewords for disjoint windows, and the penalties that train a weight towards them.

Deep k-Means (Wu et al. 2018). A weight is a matrix `X` of samples, one window in each row; the paper's `W` is `Xᵀ`.
Both penalties are `½‖X − P·X‖²`, with a projection `P` that was found earlier in the training and is kept for a while:

* `Subspace`: `P = F·Fᵀ`, with the first K left singular vectors of an earlier `X` in `F`, the relaxation of the paper.
  The rank of `X` is at most the length of a window. So for more codewords than that, the penalty is zero for the `F` of
  the present `X`; it only draws back to the span of the earlier one.
* `Clusters`: `P·X` are the means of the clusters of an earlier `X`: half the squared error of k-means.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Lloyd's steps; they end earlier once a step lowers the error by less than this share.
_STEPS, _SETTLED = 25, 1e-3
# With many samples and centres there are fewer steps, but so many: all steps together make about this many distances.
_LEAST_STEPS, _WORK = 8, 1 << 27
# A sample is compared with at most so many centres in each step; with more, steps take turns.
_MOST_CENTRES = 2048
# New centres come in this many draws: after each one, distances are known again.
_DRAWS = 64
# Number of distances in memory at once: so few that they stay in the processor's cache.
_DISTANCES = 1 << 19


class Projection(Protocol):
    """What samples are drawn towards."""

    def residual(self, samples: Float[Tensor, "p d"]) -> Float[Tensor, "p d"]:
        """`X − P·X`: the gradient of `½‖X − P·X‖²`."""
        ...


@dataclass(frozen=True)
class Subspace:
    """The projection `F·Fᵀ`; `basis` is `F`, with orthonormal columns. `F·Fᵀ` itself is never made."""

    basis: Float[Tensor, "p r"]

    @classmethod
    def of(cls, samples: Float[Tensor, "p d"], count: int, zeros: float = 0.0) -> "Subspace":
        """The first `count` left singular vectors, of which the matrix has at most as many as columns.

        The share `zeros` of the samples, those with the smallest norm, is drawn to zero.
        """
        samples = samples * ~smallest(samples, zeros)[:, None]
        return cls(torch.linalg.svd(samples, full_matrices=False).U[:, :count])

    def residual(self, samples: Float[Tensor, "p d"]) -> Float[Tensor, "p d"]:
        """As for every projection."""
        return samples - self.basis @ (self.basis.t() @ samples)


@dataclass(frozen=True)
class Clusters:
    """The projection to the means of clusters. With `zero`, the mean of the first cluster is zero."""

    labels: Int[Tensor, "p"]
    count: int
    zero: bool = False

    @classmethod
    def of(cls, samples: Float[Tensor, "p d"], count: int, zeros: float = 0.0) -> "Clusters":
        """The clusters that `cluster` finds."""
        return cls(cluster(samples, count, zeros=zeros), count, zeros > 0)

    def means(self, samples: Float[Tensor, "p d"]) -> Float[Tensor, "k d"]:
        """The mean of each cluster; zero for an empty one."""
        means = _means(samples, self.labels, self.count)
        if self.zero:
            means[0] = 0
        return means

    def residual(self, samples: Float[Tensor, "p d"]) -> Float[Tensor, "p d"]:
        """As for every projection."""
        return samples - self.means(samples)[self.labels]


def smallest(samples: Float[Tensor, "p d"], share: float) -> Tensor:
    """Which samples, `(p,)` booleans, are the given share with the smallest norm."""
    found = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    if count := round(share * len(samples)):
        found[samples.square().sum(1).topk(count, largest=False).indices] = True
    return found


def cluster(samples: Float[Tensor, "p d"], count: int, *, zeros: float = 0.0, seed: int = 0) -> Int[Tensor, "p"]:
    """The cluster of each sample by k-means, started as in k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        samples: The samples.
        count: Number of clusters; fewer are used if fewer samples differ.
        zeros: Share of the samples, those with the smallest norm, that make up cluster 0 in any case.
        seed: Seed of the start.
    """
    labels = torch.zeros(len(samples), dtype=torch.long, device=samples.device)
    first = int(zeros > 0)
    rest = (~smallest(samples, zeros)).nonzero()[:, 0]
    if count > first and len(rest):
        labels[rest] = first + _lloyd(samples[rest], count - first, seed)
    return labels


def _lloyd(samples: Float[Tensor, "p d"], count: int, seed: int) -> Int[Tensor, "p"]:
    centres = _start(samples, count, torch.Generator().manual_seed(seed))
    labels, error = torch.zeros(len(samples), dtype=torch.long, device=samples.device), float("inf")
    turns = -(-len(centres) // _MOST_CENTRES)
    fitting = _WORK // (len(samples) * min(len(centres), _MOST_CENTRES))
    for step in range(max(turns, min(max(fitting, _LEAST_STEPS), _STEPS))):
        tried = torch.arange(step % turns, len(centres), turns, device=samples.device)
        nearest, distances = _nearest(samples, centres[tried])
        if turns > 1:
            present = (samples - centres[labels]).square().sum(1)
            labels = torch.where(distances < present, tried[nearest], labels)
            distances = torch.minimum(distances, present)
        else:
            labels = nearest
        before, error = error, float(distances.sum(dtype=torch.float64))
        if step >= turns and error >= (1 - _SETTLED) * before:
            break
        centres = _means(samples, labels, len(centres))
        empty = (torch.bincount(labels, minlength=len(centres)) == 0).nonzero()[:, 0]
        if len(empty):  # to the samples that fit worst
            worst = distances.topk(min(len(empty), len(samples))).indices
            centres[empty[: len(worst)]] = samples[worst]
    return labels


def _start(samples: Float[Tensor, "p d"], count: int, generator: torch.Generator) -> Float[Tensor, "k d"]:
    """Centres drawn among the samples, with chances in proportion to the squared distance from those drawn before.

    Very many centres are drawn evenly: then distances say little.
    """
    if count > _MOST_CENTRES:
        return samples[torch.randperm(len(samples), generator=generator)[:count].to(samples.device)]
    chosen = torch.randint(len(samples), (1,), generator=generator).to(samples.device)
    distances = _nearest(samples, samples[chosen])[1]
    each = -(-count // _DRAWS)
    while len(chosen) < count and bool((distances > 0).any()):
        chances = distances.double().cumsum(0)
        points = torch.rand(min(each, count - len(chosen)), generator=generator, dtype=torch.float64)
        drawn = torch.searchsorted(chances, points.to(chances) * chances[-1], right=True).clamp_max(len(samples) - 1)
        drawn = drawn[distances[drawn] > 0].unique()
        if not len(drawn):
            break
        distances = torch.minimum(distances, _nearest(samples, samples[drawn])[1])
        distances[drawn] = 0
        chosen = torch.cat([chosen, drawn])
    return samples[chosen]


def _nearest(samples: Float[Tensor, "p d"], centres: Float[Tensor, "k d"]) -> tuple[Int[Tensor, "p"], Tensor]:
    """The nearest centre of each sample, and the squared distance, from a few samples at a time."""
    sizes, found = centres.square().sum(1), []
    for part in samples.split(max(_DISTANCES // len(centres), 1)):
        low, index = torch.addmm(sizes, part, centres.t(), alpha=-2).min(1)
        found.append((index, (low + part.square().sum(1)).clamp_min(0)))
    labels, distances = zip(*found, strict=True)
    return torch.cat(labels), torch.cat(distances)


def _means(samples: Float[Tensor, "p d"], labels: Int[Tensor, "p"], count: int) -> Float[Tensor, "k d"]:
    sums = samples.new_zeros(count, samples.shape[1]).index_add(0, labels, samples)
    return sums / torch.bincount(labels, minlength=count).clamp_min(1)[:, None].to(sums.dtype)
