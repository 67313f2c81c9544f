"""Which block a filter is in, learned: now and then a few filters change places with filters of other blocks.

A choice at every step would cost the work of all blocks, and the numbers of a filter would serve many in turn. So in a
few steps before a move the layer computes with its weight, and the gradient of each window's sign is added up. To first
order it says what the loss would be if a filter saw another fold. The exchanges that promise most are made; exchanges,
so that blocks keep their sizes. The gradients are state: a training that goes on moves the same filters.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.coding.exact import Exact
from autosample.coding.packing import bits_for
from autosample.sampling.folds import Folds, hadamard

# Steps before a move in which gradients are added up.
_WATCHED = 5
# An exchange that promises less than this share of the best one is taken for noise.
_NOISE = 0.05


class Moves(Exact):
    """The blocks of a layer's filters while they are learned.

    Attributes:
        gradient: `(N, G)`: of the signs, added up since the last move.
        watching: Whether the present step adds to it.
        is_frozen: Whether blocks no longer change.
    """

    gradient: Tensor

    def __init__(self, folds: Folds, every: int, share: float, device: torch.device | None = None) -> None:
        super().__init__()
        self.folds, self.every, self.share, self.watching = folds, every, share, False
        self._probe: Tensor | None = None  # zeros, whose gradient is that of the signs while they are watched
        self.register_buffer("gradient", torch.zeros(folds.filters, folds.windows, device=device))
        self.keep("frozen", torch.zeros((), device=device), 1)
        self.keep("present", folds.block(device), bits_for(folds.blocks))
        self.is_frozen = False

    def fresh(self, name: str) -> Tensor:
        return self.folds.block() if name == "present" else torch.zeros(())

    def reset(self) -> None:
        """Start again, with blocks in order."""
        self.keep("present", self.folds.block(self.gradient.device), bits_for(self.folds.blocks))
        self.keep("frozen", torch.zeros((), device=self.gradient.device), 1)
        self.gradient.zero_()
        self.is_frozen = False

    def freeze(self) -> None:
        """Blocks no longer change."""
        self.keep("frozen", torch.ones((), device=self.gradient.device), 1)
        self.is_frozen, self.watching, self._probe = True, False, None

    def notice(self) -> None:
        """See whether the buffers are those of a frozen layer, as in an average of models (EMA)."""
        flag = self.get_buffer("frozen_bits")
        self.is_frozen = not flag.is_meta and bool(flag)

    def begin(self, step: int) -> bool:
        """Say which step begins; whether filters should move before it."""
        self.watching = not self.is_frozen and -(step + 1) % self.every < min(_WATCHED, self.every)
        self._probe = torch.zeros_like(self.gradient).requires_grad_() if self.watching else None
        return not self.is_frozen and step > 0 and step % self.every == 0

    @property
    def watches(self) -> bool:
        """Whether gradients of signs count now."""
        return self.watching and self.training and torch.is_grad_enabled()

    def watched(self, signs: Float[Tensor, "n g"]) -> Float[Tensor, "n g"]:
        """The signs of all windows; if this step is watched, their gradient will be seen."""
        if not self.watches or self._probe is None:
            return signs
        return signs.detach() + self._probe.to(signs.dtype)  # not a hook: compiled graphs have none

    def seen(self) -> Tensor | None:
        """The gradient seen since the last call, to be added with `add`; `None` if there was none."""
        if self._probe is None:
            return None
        found, self._probe.grad = self._probe.grad, None
        return found

    def add(self, gradient: Float[Tensor, "n g"]) -> None:
        """Add a gradient, the same in all processes."""
        self.gradient += gradient.to(self.gradient)

    @torch.no_grad()
    def move(self) -> Int[Tensor, "k"]:
        """Exchange the blocks of the filters that promise most; returns these filters."""
        f, blocks = self.folds, self.kept("present").cpu()
        rows = hadamard(torch.arange(f.blocks), f.windows, torch.float64)
        toward = self.gradient.double().cpu() @ rows.t()  # the change of the loss if the sign were that of each block
        gain = (toward.gather(1, blocks[:, None]) - toward).numpy()
        each, moved = f.filters // f.groups, []
        for first in range(0, f.filters, each):
            part = slice(first, first + each)
            found = exchanges(gain[part], blocks[part].numpy(), int(each * self.share / 2))
            for one, other in found + first:
                blocks[one], blocks[other] = blocks[other].clone(), blocks[one].clone()
            moved.append(found.reshape(-1) + first)
        self.keep("present", blocks.to(self.gradient.device), bits_for(f.blocks))
        self.gradient.zero_()
        return torch.from_numpy(np.concatenate(moved)).to(self.gradient.device)


def exchanges(gain: np.ndarray, blocks: np.ndarray, most: int) -> np.ndarray:
    """Pairs of items that should exchange their blocks, `(pairs, 2)`, the best first; each item once.

    A gain to first order is too large, by the same amount for each move of an item, as signs are orthogonal. If the
    loss is a parabola whose lowest point is the item's best block, that is half of its largest gain. An item that gains
    nowhere is where it should be: what it would lose does not show to first order, so it stays.

    Args:
        gain: `(items, blocks)`, of an item's move to a block, to first order.
        blocks: The present block of each item, `(items,)`.
        most: Most pairs.
    """
    gain = np.where(gain > 0, gain - gain.max(1, keepdims=True) / 2, -np.inf)
    count = gain.shape[1]
    best, who = np.full((count, count), -np.inf), np.zeros((count, count), dtype=int)

    def look(block: int) -> None:
        members = np.flatnonzero(blocks == block)
        if len(members):
            who[block] = members[gain[members].argmax(0)]
            best[block] = gain[members].max(0)

    for block in range(count):
        look(block)
    pairs, largest = [], 0.0
    for _ in range(most):
        both = best + best.T
        a, b = np.unravel_index(both.argmax(), both.shape)
        largest = max(largest, both[a, b])
        if not both[a, b] > _NOISE * largest:
            break
        pairs.append((who[a, b], who[b, a]))
        gain[[who[a, b], who[b, a]]] = -np.inf
        look(int(a))
        look(int(b))
    return np.array(pairs, dtype=int).reshape(-1, 2)
