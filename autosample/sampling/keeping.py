"""Which selections keep the most of a dense weight: blocks of filters and an order of channels, for a warm start.

`Φ[n, q] = mean_g H[b(n), g] · W[n, π(gQ + q)]` is the closest summary, and the energy that it keeps of filter `n` is
`G·‖Φ[n]‖²`: it depends on the filter's block `b(n)` and on the order of channels `π`. Blocks keep their sizes, so a
layer stays one convolution with groups.
"""

import math
from collections.abc import Collection
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.sampling.fitting import fit_summary
from autosample.sampling.folds import Folds, hadamard, order
from autosample.sampling.geometry import Geometry
from autosample.sampling.windows import gather_windows

# Blocks and channels are chosen in turn, at most so often.
_ROUNDS = 4
# Exchanges of channels: sweeps over all pairs of columns, and numbers that may be held for them.
_SWEEPS = 100
_MOST_NUMBERS = 1 << 27
# A share of the energy that is worth another round.
_LEAST = 1e-4


def keep_most(
    weight: Float[Tensor, "n m *kernel"],
    folds: Folds,
    geometry: Geometry,
    offsets: Int[Tensor, "n g"],
    selects: Collection[str],
) -> tuple[dict[str, Tensor], float]:
    """The `assignment` `(N,)` and the `permutation` `(M,)` found, never worse than those in order.

    Also returns the relative error `‖W − Ŵ‖/‖W‖` of the closest summary in order, for comparison.

    Args:
        weight: The dense weight.
        folds, geometry: The layer's.
        offsets: Where windows start on the summary.
        selects: Which of the two may be chosen.
    """
    work = _Weight(weight, folds, geometry, offsets)
    best = {"assignment": folds.block(weight.device), "permutation": torch.arange(folds.channels, device=weight.device)}
    now, kept = best, work.kept(best)
    error = math.sqrt(max(1 - kept / max(work.energy, 1e-30), 0.0))
    for _ in range(_ROUNDS):
        if "assignment" in selects:
            now = {**now, "assignment": work.assigned(now)}
        if "permutation" in selects:
            now = {**now, "permutation": work.permuted(now)}
        more = work.kept(now)
        enough = more - kept <= _LEAST * work.energy
        if more > kept:
            best, kept = now, more
        if enough:
            break
    return best, error


class _Weight:
    """A dense weight, and how much of it selections keep."""

    def __init__(
        self,
        weight: Float[Tensor, "n m *kernel"],
        folds: Folds,
        geometry: Geometry,
        offsets: Int[Tensor, "n g"],
    ) -> None:
        self.weight, self.folds, self.geometry, self.offsets = weight, folds, geometry, offsets
        self.energy = float(weight.square().sum())
        starts = offsets[:, 0]
        self.apart = len(starts.unique()) == len(starts) and geometry.grid == geometry.taps
        self.rows = hadamard(
            torch.arange(min(folds.blocks, order(folds.windows)), device=weight.device), folds.windows, weight.dtype
        )

    def kept(self, chosen: dict[str, Tensor]) -> float:
        """The energy that the closest summary keeps."""
        return float((self._windows(chosen) * self._sampled(chosen)).sum())

    def _windows(self, chosen: dict[str, Tensor]) -> Float[Tensor, "n g q w"]:
        return self.geometry.to_windows(self.weight.index_select(1, chosen["permutation"]))

    def _signs(self, chosen: dict[str, Tensor]) -> Float[Tensor, "n g"]:
        return self.rows[chosen["assignment"] % len(self.rows)]

    def _fitted(self, chosen: dict[str, Tensor]) -> Float[Tensor, "n g q w"]:
        """The windows of the closest summary, without their signs."""
        signs = self._signs(chosen)
        summary = fit_summary(self._windows(chosen), self.offsets, self.geometry, factors=signs)
        return gather_windows(summary, self.offsets.reshape(-1), self.geometry.window).view(
            *self.offsets.shape, *summary.shape[1:], -1
        )

    def _sampled(self, chosen: dict[str, Tensor]) -> Float[Tensor, "n g q w"]:
        return self._fitted(chosen) * self._signs(chosen)[:, :, None, None]

    def assigned(self, chosen: dict[str, Tensor]) -> Int[Tensor, "n"]:
        """The blocks that keep the most, at this order of channels.

        If each filter has numbers of its own, these are the best of all. Otherwise they are the best for the numbers
        that are closest now, so at least as much is kept as before.
        """
        windows = self._windows(chosen)
        if self.apart:
            count = self.geometry.to_windows(torch.ones_like(self.weight[:1]))[0, :, :, :1].sum(0)
            sums = torch.einsum("bg,ngqw->bnqw", self.rows, windows)
            gain = (sums.square() / count.clamp_min(1)).sum((2, 3)).t()
        else:
            gain = torch.einsum("ngqw,ngqw->ng", windows, self._fitted(chosen)) @ self.rows.t()
        return self._shared_out(gain)

    def _shared_out(self, gain: Float[Tensor, "n r"]) -> Int[Tensor, "n"]:
        """Blocks by the gain of each row of signs; blocks with equal signs share their filters in order."""
        f, device = self.folds, gain.device
        sizes = f.block().view(f.groups, -1)[0].bincount(minlength=f.blocks)
        of_row = torch.arange(f.blocks) % gain.shape[1]
        rows = torch.zeros(gain.shape[1], dtype=torch.long).index_add(0, of_row, sizes).numpy()
        found = []
        for part in gain.double().cpu().numpy().reshape(f.groups, -1, gain.shape[1]):
            row, blocks = torch.from_numpy(best_assignment(part, rows)), torch.empty(len(part), dtype=torch.long)
            for r in range(gain.shape[1]):
                same = (of_row == r).nonzero()[:, 0]
                blocks[row == r] = same.repeat_interleave(sizes[same])
            found.append(blocks)
        return torch.cat(found).to(device)

    def permuted(self, chosen: dict[str, Tensor]) -> Int[Tensor, "m"]:
        """The order of channels after exchanges that keep more, from the present one."""
        f = self.folds
        if order(f.windows) * (f.windows * f.columns) ** 2 > _MOST_NUMBERS:
            return chosen["permutation"]
        windows = self._windows(chosen)
        flat = windows.flatten(1, 2).transpose(0, 1).flatten(1)  # (G·Q, N·w)
        products = _products(flat, chosen["assignment"] % len(self.rows), order(f.windows))
        moved = exchange(products, f.windows, f.columns, f.channels)
        return chosen["permutation"][moved]


def best_assignment(gain: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The assignment of items to blocks of given sizes with the largest total gain.

    Items come one after the other. Each takes the cheapest chain of moves that ends in a block with room (successive
    shortest paths), so the result is optimal.

    Args:
        gain: `(items, blocks)`.
        sizes: Items that each block takes; as many as there are in total.
    """
    items, blocks = gain.shape
    chosen, room = np.full(items, -1), sizes.copy()
    price = np.full((blocks, blocks), np.inf)  # what it costs that a member of one block moves to another
    mover = np.zeros((blocks, blocks), dtype=int)
    for item in range(items):
        cost, before = -gain[item], np.full(blocks, -1)
        for _ in range(blocks):
            chains = cost[:, None] + price
            least = chains.min(0)
            better = least < cost - 1e-12 * (1 + np.abs(cost))
            if not better.any():
                break
            before = np.where(better, chains.argmin(0), before)
            cost = np.where(better, least, cost)
        block = int(np.where(room > 0, cost, np.inf).argmin())
        room[block] -= 1
        touched = [block]
        while (source := int(before[block])) >= 0 and len(touched) <= blocks:
            chosen[mover[source, block]] = block
            block = source
            touched.append(block)
        chosen[item] = block
        for changed in touched:
            members = np.flatnonzero(chosen == changed)
            costs = gain[members, changed][:, None] - gain[members]
            price[changed], mover[changed] = costs.min(0), members[costs.argmin(0)]
            price[changed, changed] = np.inf
    return chosen


def _products(channels: Float[Tensor, "c nw"], rows: Int[Tensor, "n"], size: int) -> Float[Tensor, "s c d"]:
    """`Σ_n H[b(n), s] · ⟨W[n, c], W[n, d]⟩` for each row `s`: `H[b, g]·H[b, h] = H[b, g xor h]`."""
    count = len(channels)
    of_filter = channels.view(count, len(rows), -1)
    out = channels.new_zeros(size, count, count)
    for row in rows.unique().tolist():
        part = of_filter[:, rows == row].flatten(1)
        signs = hadamard(torch.tensor([row], device=rows.device), size, channels.dtype)[0]
        out += signs[:, None, None] * (part @ part.t())
    return out


def exchange(
    products: Float[Tensor, "s c d"], windows: int, columns: int, channels: int, sweeps: int = _SWEEPS
) -> Int[Tensor, "m"]:
    """An order of channels in which what is folded together cancels less, by exchanges of pairs.

    What is folded into one column does not depend on the other columns. So a sweep makes the best exchange of as many
    disjoint pairs of columns as gain by one, and their gains add up.

    Args:
        products: `Σ_n H[b(n), s] · ⟨W[n, c], W[n, d]⟩`.
        windows, columns: `G` and `Q`.
        channels: `M`; places beyond it are empty.
        sweeps: Most sweeps.
    """
    places = torch.arange(windows * columns, device=products.device)
    here = products.clone()  # in the present order
    real = places < channels
    share = 1 / real.view(windows, columns).sum(0).clamp_min(1).to(products.dtype)
    share = share.repeat(windows)  # of a place's column
    within = places[:, None] % columns == places % columns
    shut = ~(real[:, None] & real) | within
    now = places.clone()
    tiny = 1e-7 * float(products[0].diagonal().sum())
    for _ in range(sweeps):
        of_group = here.view(-1, windows, columns, windows * columns)
        sums = torch.zeros_like(of_group[0])
        for g, h in product(range(windows), repeat=2):
            sums[g] += of_group[g ^ h, h]
        sums, same = sums.flatten(0, 1), here[0]
        own, size = sums.diagonal()[:, None], same.diagonal()
        half = share[:, None] * (2 * (sums - own) + size[:, None] + size - 2 * same)
        gain = (half + half.t()).masked_fill(shut, -torch.inf)
        pairs = _best_pairs(gain.view(windows, columns, windows, columns), tiny)
        if not pairs:
            break
        one, other = torch.tensor(pairs, device=now.device).t()
        to, source = torch.cat([one, other]), torch.cat([other, one])
        now[to] = now[source]
        here[:, to] = here[:, source]
        here[:, :, to] = here[:, :, source]
    return now[:channels]


def _best_pairs(gain: Float[Tensor, "g q h r"], least: float) -> list[tuple[int, int]]:
    """Pairs of places, at most one in each column, by falling gain."""
    windows, columns = gain.shape[:2]
    of_columns = gain.permute(1, 3, 0, 2).flatten(2)
    best, which = of_columns.max(2)
    best, which = best.cpu().numpy().copy(), which.cpu().numpy()
    pairs = []
    while True:
        q, r = np.unravel_index(best.argmax(), best.shape)
        if not best[q, r] > least:
            return pairs
        g, h = divmod(int(which[q, r]), windows)
        pairs.append((g * columns + int(q), h * columns + int(r)))
        best[[q, r]] = best[:, [q, r]] = -np.inf
