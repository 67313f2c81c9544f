"""Loading of data too large for the device: an ordinary DataLoader that follows the same `BatchPlan`."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info
from torch.utils.data.distributed import DistributedSampler

from autosample.data.files import DEFAULT, Limits
from autosample.data.image_files import open_image
from autosample.data.resident import BatchPlan, Resumable
from autosample.errors import DataError
from autosample.system.seeds import mixed_seed
from autosample.system.warning import warn

# examples in a row that cannot be read and that others take the place of; timm has the same number
_MOST_IN_A_ROW = 10
# NumPy's global generator in `seeded`
_OWN = np.random.MT19937()
T = TypeVar("T")


class BatchKey(NamedTuple):
    """The key that the sampler sends to a worker: batch number `batch` of epoch `epoch`."""

    epoch: int
    batch: int


class Repaired(NamedTuple):
    """A batch in which other examples take the places of some that cannot be read; `bad` says what is wrong."""

    x: Tensor
    y: Tensor
    bad: list[str]


class PlanSampler(DistributedSampler):
    """Yields one `BatchKey` per batch. It is a `DistributedSampler` because Lightning replaces others under DDP."""

    def __init__(self, dataset: "PlannedBatches", epoch: Callable[[], int]) -> None:
        super().__init__(dataset, num_replicas=dataset.plan.world_size, rank=dataset.plan.rank, shuffle=False)
        self.plan, self.current_epoch, self.first = dataset.plan, epoch, 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[BatchKey]:
        epoch, first = self.current_epoch(), self.first
        return (BatchKey(epoch, batch) for batch in range(first, len(self.plan)))


class PlannedBatches(Dataset):
    """A dataset of whole batches: item `BatchKey(epoch, b)` is batch b of that epoch, item b is batch b of epoch 0.

    Args:
        plan: which examples are in which batch.
        indices: rows of the data that belong to this part, (n,) int64.
    """

    kind: ClassVar[str] = "examples"  #: what messages call them

    def __init__(self, plan: BatchPlan, indices: Tensor) -> None:
        self.plan, self.indices = plan, indices
        self._order: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, key: BatchKey | int) -> tuple[Tensor, Tensor] | DataError:
        epoch, batch = key if isinstance(key, tuple) else (0, key)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self.indices[self.plan.order(epoch)])
        start, stop = self.plan.bounds(batch)
        try:
            return self.cut(self._order[1][start:stop], epoch, batch)
        except DataError as error:
            if get_worker_info() is None:
                raise
            return error  # the loader raises it: torch would put the worker's traceback before the message

    def cut(self, rows: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """The batch `(x, y)` made of `rows` of the data."""
        raise NotImplementedError

    def finish(self, x: Tensor, epoch: int, batch: int) -> Tensor:
        """What the process that trains makes of the x of a batch that `cut` has made, perhaps in a worker."""
        return x


def stacked(parts: list[Tensor]) -> Tensor:
    """Examples as one tensor; in a worker, made in memory that it shares with the process that trains.

    Otherwise torch would copy the batch there, and the worker's memory would grow over an epoch: blocks of a batch's
    size leave holes in the allocator's heap.
    """
    return default_collate(parts)


def first_readable(
    read: Callable[[int], T], number: int, part: Tensor, skip: bool, bad: list[str], kind: str
) -> tuple[T, int]:
    """Example `number`, or with `skip` the first behind it that can be read, and its own number.

    Args:
        read: gives an example by its number; a `DataError` if it cannot be read.
        number: the example asked for.
        part: numbers of the examples to choose from, ascending, (n,) int64; behind the last comes the first.
        skip: take others.
        bad: what is wrong with the others is added here.
        kind: what messages call the examples.

    Raises:
        DataError: it cannot be read; with `skip`, nor can the nine behind it.
    """
    place, first = int(torch.searchsorted(part, number)), len(bad)
    for ahead in range(_MOST_IN_A_ROW):
        number = int(part[(place + ahead) % len(part)])
        try:
            return read(number), number
        except DataError as error:
            if not skip:
                raise
            bad.append(str(error))
    raise DataError(
        f"{kind} must be readable, got {_MOST_IN_A_ROW} in a row that are not: check the disk; the first: {bad[first]}"
    )


class TensorBatches(PlannedBatches):
    """Batches cut from tensors in main memory: the same batches that `ResidentLoader` gives on the CPU.

    Args:
        x, y: examples (N, ...) and labels (N,).
        augment: called as `augment(x, generator)` on each batch, or None.
        plan, indices: as in `PlannedBatches`.
    """

    def __init__(
        self, x: Tensor, y: Tensor, augment: Callable[..., Tensor] | None, plan: BatchPlan, indices: Tensor
    ) -> None:
        super().__init__(plan, indices)
        self.x, self.y, self.augment = x, y, augment

    def cut(self, rows: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        x = self.x[rows]
        if self.augment is not None:
            seed = mixed_seed(self.plan.seed, epoch, batch, self.plan.rank)
            x = self.augment(x, torch.Generator().manual_seed(seed))
        return x, self.y[rows]


@contextmanager
def own_chance() -> Iterator[Callable[..., None]]:
    """In the block, random numbers of Python, NumPy and torch (on the CPU) depend only on the numbers that seed them.

    Gives the function that seeds all three with whole numbers. Generators go on after the block as if it had not been.
    """
    # timm draws from the global generators. NumPy's is replaced: copies of its state take as long as all the rest
    shared: Any = np.random  # stubs do not know these functions
    states = random.getstate(), shared.get_bit_generator(), torch.get_rng_state()
    shared.set_bit_generator(_OWN)

    def seed(*parts: int) -> None:
        number = mixed_seed(*parts)
        random.seed(number)
        shared.seed(number % 2**32)
        torch.default_generator.manual_seed(number)

    try:
        yield seed
    finally:
        random.setstate(states[0])
        shared.set_bit_generator(states[1])
        torch.set_rng_state(states[2])


class FileBatches(PlannedBatches):
    """Batches of image files. Each image is decoded and transformed alone.

    The random numbers of an image's transform depend only on (seed, epoch, row), so the number of workers and ranks
    does not matter.

    Args:
        paths: all N image files of the data.
        y: labels, (N,).
        transform: makes a float tensor (C, H, W) from a PIL image.
        plan, indices: as in `PlannedBatches`.
        limits: what a file may hold.
    """

    def __init__(
        self,
        paths: Sequence[str],
        y: Tensor,
        transform: Callable[[Any], Tensor],
        plan: BatchPlan,
        indices: Tensor,
        limits: Limits = DEFAULT,
    ) -> None:
        super().__init__(plan, indices)
        # one array instead of a list of strings: reference counts would make forked workers copy the list's pages
        self.paths, self.y, self.transform = np.array([os.fsencode(path) for path in paths]), y, transform
        self.limits = limits

    def cut(self, rows: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        images = []
        with own_chance() as seed:
            for row in rows.tolist():
                image = open_image(os.fsdecode(self.paths[int(row)]), limits=self.limits)
                seed(self.plan.seed, epoch, row)
                images.append(self.transform(image))
        return stacked(images), self.y[rows]


def _as_it_is(batch: Any) -> Any:
    return batch


class WorkerLoader(Resumable, DataLoader):
    """A DataLoader over `PlannedBatches`. Build it with `worker_loader`.

    It warns once at the end of a pass if examples could not be read, each process about its own.
    """

    @property
    def plan(self) -> BatchPlan:
        """Which examples make up which batch."""
        return self._made.plan

    @property
    def _made(self) -> PlannedBatches:
        return cast(PlannedBatches, self.dataset)

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        bad: list[str] = []
        try:
            for item in self._batches():
                if isinstance(item, DataError):
                    raise item
                if isinstance(item, Repaired):
                    bad += item.bad
                if self._at[1] == len(self.plan):  # Lightning does not ask again after the last batch
                    self._tell(bad)
                epoch, done = self._at
                yield self._made.finish(item[0], epoch, max(done - 1, 0)), item[1]
        finally:
            self._tell(bad)

    def _tell(self, bad: list[str]) -> None:
        if bad:
            warn(
                f"{self._made.kind} of epoch {self._at[0]} that could not be read: {len(bad)}; others took their "
                f"places; the first: {bad[0]}"
            )
            bad.clear()

    def _batches(self) -> Iterator[Any]:
        sampler = self.sampler
        if not isinstance(sampler, PlanSampler):  # Lightning uses its own sampler for `overfit_batches`
            yield from super().__iter__()
            return
        epoch = sampler.current_epoch()
        sampler.first = first = self._first_batch(epoch, len(sampler))
        for batch, item in enumerate(super().__iter__(), first):
            self._at = (epoch, batch + 1)
            yield item


def worker_loader(dataset: PlannedBatches, epoch: Callable[[], int], num_workers: int, pin_memory: bool) -> DataLoader:
    """A DataLoader that gives the batches of `dataset` in the order of the epoch that `epoch()` returns."""
    return WorkerLoader(
        dataset,
        batch_size=None,  # the dataset gives whole batches
        sampler=PlanSampler(dataset, epoch),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # otherwise each pass would draw from torch's global generator
    )
