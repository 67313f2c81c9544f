"""Batches cut from tensors on the training device, in an order that depends only on (seed, epoch)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autosample.errors import DataError
from autosample.system.seeds import mixed_seed


def _never_changes() -> int:
    return 0


@dataclass(frozen=True)
class BatchPlan:
    """Which examples are in which batch, for one rank out of `world_size`.

    The order depends only on `seed` and the epoch, so a resumed run sees the same batches as one without a break. Over
    all ranks, each example comes exactly once per epoch. Each rank has the same number of batches (sizes may differ by
    one), so no rank waits for another. There are two exceptions. `drop_last` leaves out up to one batch per rank. If
    there are fewer examples than ranks × batches, some ranks repeat an example instead of having an empty batch.

    Args:
        size: number of examples over all ranks.
        batch_size: examples per batch on one rank.
        shuffle: draw a new order every epoch; otherwise keep the order of the examples.
        seed: seed of the order, at least 0.
        rank, world_size: number of this process, and number of processes.
        drop_last: leave out the last batch if it is short, unless it is the only one.
        repeats: how often an example comes in an epoch (repeated augmentation, Hoffer et al. 2020); above 1, an epoch
            keeps its length and has one in `repeats` of the examples. Copies go to different ranks, if there are so
            many. Index i + c × `size` is copy c of example i.

    Raises:
        DataError: no examples, or a batch size or `repeats` below 1.
    """

    size: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"a loader needs at least one example, got {self.size}: this part of the data set is empty")
        if self.batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.repeats < 1:
            raise DataError(f"repeats must be at least 1, got {self.repeats}: 1 repeats nothing")
        if not 0 <= self.rank < self.world_size:
            raise DataError(f"rank must be one of 0..{self.world_size - 1}, got {self.rank}")

    def __len__(self) -> int:
        """Batches per epoch on each rank."""
        whole = self.size // self.world_size // self.batch_size
        if self.drop_last and whole:
            return whole
        largest_shard = -(-self.size // self.world_size)
        return -(-largest_shard // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """This rank's examples in the order of epoch `epoch`: int64 indices, shape (n,)."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            everything = torch.randperm(self.size, generator=generator)
        else:
            everything = torch.arange(self.size)
        if self.repeats > 1:
            place = torch.arange(self.size)
            everything = everything[place // self.repeats] + place % self.repeats * self.size
        shard = everything[self.rank :: self.world_size]
        missing = len(self) - len(shard)
        if missing > 0:
            shard = torch.cat([shard, everything[torch.arange(missing) % self.size]])
        return shard

    def bounds(self, batch: int) -> tuple[int, int]:
        """Where batch `batch` starts and stops within `order`."""
        count = len(self)
        if self.drop_last and self.size // self.world_size >= self.batch_size:
            return batch * self.batch_size, (batch + 1) * self.batch_size
        size = max(count, len(range(self.rank, self.size, self.world_size)))
        # a rank with one example fewer could run out: each batch leaves at least one example for every later batch
        start, stop = (min(b * self.batch_size, size - (count - b)) for b in (batch, batch + 1))
        return start, stop


class Resumable:
    """A loader that can resume within an epoch: Lightning stores its position in checkpoints."""

    _at: tuple[int, int] = (0, 0)
    _resume_at: tuple[int, int] | None = None

    def _first_batch(self, epoch: int, count: int) -> int:
        """The first batch of epoch `epoch`: 0, unless training resumes within this epoch."""
        first = 0
        if self._resume_at is not None and self._resume_at[0] == epoch and self._resume_at[1] < count:
            first = self._resume_at[1]
        self._resume_at = None
        return first

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and the number of its batches that have been returned."""
        return {"epoch": self._at[0], "batch": self._at[1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batches of `state_dict` if the next pass is over the same epoch."""
        self._resume_at = (int(state_dict["epoch"]), int(state_dict["batch"]))


class ResidentLoader(Resumable):
    """An iterable over `(x, y)` batches of tensors that stay on their device, without worker processes.

    The order of the examples depends only on (`seed`, epoch), and the augmentation's random numbers on (`seed`, epoch,
    batch, `rank`). `BatchPlan` says how ranks share the examples. CPU and CUDA generators give different numbers.

    Args:
        x: examples, (N, ...), of any dtype; uint8 images stay uint8 until `augment` turns them into floats.
        y: labels, (N,), int64, on the device of `x`.
        batch_size: examples per batch on this rank.
        shuffle: draw a new order every epoch.
        augment: called as `augment(x, generator)` on each batch; None leaves batches unchanged.
        seed: seed of order and augmentation, at least 0.
        epoch: returns the current epoch; called when a pass begins, such as `lambda: trainer.current_epoch`.
        rank, world_size: number of this process, and number of processes.
        drop_last: leave out the last batch if it is short, unless it is the only one.
        indices: use only these rows of `x` and `y`, (n,) int64; None for all.

    Raises:
        DataError: nothing to load, `x` and `y` of different lengths, or a batch size below 1.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        shuffle: bool = False,
        augment: nn.Module | Callable[..., Tensor] | None = None,
        seed: int = 0,
        epoch: Callable[[], int] = _never_changes,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        indices: Tensor | None = None,
    ) -> None:
        if len(x) != len(y):
            raise DataError(f"x and y must have the same length, got {len(x)} and {len(y)}")
        size = len(x) if indices is None else len(indices)
        self.plan = BatchPlan(size, batch_size, shuffle, seed, rank, world_size, drop_last)
        self.x, self.y, self.augment, self.epoch = x, y, augment, epoch
        self.indices = None if indices is None else indices.to(x.device)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch()
        # one small copy per epoch; all batches are then cut on the device
        order = self.plan.order(epoch).to(self.x.device)
        order = order if self.indices is None else self.indices[order]
        generator = torch.Generator(self.x.device)
        first = self._first_batch(epoch, len(self))
        for batch in range(first, len(self)):
            self._at = (epoch, batch + 1)
            start, stop = self.plan.bounds(batch)
            rows = order[start:stop]
            x, y = self.x[rows], self.y[rows]
            if self.augment is not None:
                generator.manual_seed(mixed_seed(self.plan.seed, epoch, batch, self.plan.rank))
                x = self.augment(x, generator)
            yield x, y
