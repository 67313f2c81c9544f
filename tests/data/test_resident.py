import functools
import operator

import pytest
import torch
from torch import nn

from autosample.data.augment import RandomGain
from autosample.data.resident import BatchPlan, ResidentLoader
from autosample.data.workers import TensorBatches, worker_loader
from autosample.errors import DataError
from autosample.system.seeds import mixed_seed


def loader(epoch=0, n=23, **options):
    x = torch.arange(1.0, n + 1).view(n, 1, 1)
    options = {"batch_size": 4, "shuffle": True, "augment": RandomGain(3), "seed": 5} | options
    return ResidentLoader(x, torch.arange(n), epoch=lambda: epoch, **options)


def same(a, b):
    a, b = list(a), list(b)
    return len(a) == len(b) and all(
        torch.equal(p, q) for s, t in zip(a, b, strict=True) for p, q in zip(s, t, strict=True)
    )


def labels(batches):
    return torch.cat([y for _, y in batches])


def test_order_and_augmentation_depend_on_seed_and_epoch_only():
    first = list(loader(3))
    torch.rand(9)
    assert same(first, loader(3))
    again = loader(3)
    assert same(again, first)
    assert same(again, first)
    assert not torch.equal(labels(first), labels(loader(4)))
    assert not torch.equal(labels(first), labels(loader(3, seed=6)))
    # seed + epoch would mix these up
    assert not torch.equal(labels(loader(1, seed=2)), labels(loader(2, seed=1)))
    assert mixed_seed(0, 1) != mixed_seed(1, 0)


def test_augmentation_differs_between_batches_and_epochs():
    def gains(epoch):
        return torch.cat([x.flatten() / (y + 1) for x, y in loader(epoch, shuffle=False)])

    assert len(gains(0).unique()) == 23
    assert not torch.equal(gains(0), gains(1))


def test_no_augment_gives_the_rows():
    batches = list(loader(augment=None, shuffle=False))
    assert torch.equal(torch.cat([x for x, _ in batches]).flatten(), torch.arange(1.0, 24))
    assert [len(y) for _, y in batches] == [4, 4, 4, 4, 4, 3]
    assert [len(y) for _, y in loader(drop_last=True)] == [4] * 5
    assert [len(y) for _, y in loader(drop_last=True, n=3)] == [3]


def test_module_as_augment_and_indices():
    class Double(nn.Module):
        def forward(self, x, generator):
            return 2 * x

    rows = torch.tensor([7, 2, 9])
    ((x, y),) = loader(shuffle=False, augment=Double(), indices=rows)
    assert torch.equal(x.flatten(), 2.0 * (rows + 1))
    assert torch.equal(y, rows)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [5, 16, 17, 23, 24, 25])
@pytest.mark.parametrize("batch_size", [2, 4])
def test_ranks_share_each_example_once(n, world, shuffle, batch_size):
    plans = [BatchPlan(n, batch_size, shuffle, 1, rank, world) for rank in range(world)]
    assert len({len(plan) for plan in plans}) == 1
    seen = []
    for plan in plans:
        order = plan.order(2)
        pieces = [order[slice(*plan.bounds(b))] for b in range(len(plan))]
        assert all(1 <= len(piece) <= batch_size for piece in pieces)
        seen += torch.cat(pieces).tolist()
    assert sorted(seen) == list(range(n))


@pytest.mark.parametrize(("n", "world", "batch_size"), [(2, 3, 4), (5, 2, 1), (1, 4, 1)])
def test_ranks_without_enough_examples_repeat_some(n, world, batch_size):
    seen = []
    counts = set()
    for rank in range(world):
        plan = BatchPlan(n, batch_size, rank=rank, world_size=world)
        counts.add(len(plan))
        order = plan.order(0)
        pieces = [order[slice(*plan.bounds(b))].tolist() for b in range(len(plan))]
        assert all(1 <= len(piece) <= batch_size for piece in pieces)
        seen += functools.reduce(operator.iadd, pieces, [])
    assert len(counts) == 1
    assert set(seen) == set(range(n))


def test_drop_last_gives_full_batches_and_equal_counts():
    for rank in range(3):
        plan = BatchPlan(29, 4, True, 0, rank, 3, drop_last=True)
        assert [stop - start for start, stop in map(plan.bounds, range(len(plan)))] == [4, 4]
        assert plan.bounds(1)[1] <= len(plan.order(0))


def test_resumes_within_an_epoch():
    whole = list(loader(2))
    part = loader(2)
    it = iter(part)
    head = [next(it), next(it)]
    state = part.state_dict()
    assert state == {"epoch": 2, "batch": 2}
    fresh = loader(2)
    fresh.load_state_dict(state)
    assert same(head + list(fresh), whole)
    # only once, and only in the epoch of the checkpoint
    assert same(fresh, whole)
    other = loader(3)
    other.load_state_dict(state)
    assert same(other, loader(3))
    finished = loader(2)
    finished.load_state_dict({"epoch": 2, "batch": len(whole)})
    assert same(finished, whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_resident_batches(workers):
    epoch = 0
    resident = loader()
    dataset = TensorBatches(resident.x, resident.y, resident.augment, resident.plan, torch.arange(23))
    ordinary = worker_loader(dataset, lambda: epoch, workers, pin_memory=False)
    assert len(ordinary) == len(resident)
    for epoch in (0, 3):
        assert same(ordinary, loader(epoch))
    state = {"epoch": 3, "batch": 2}
    ordinary.load_state_dict(state)
    assert same(ordinary, list(loader(3))[2:])
    assert same(ordinary, loader(3))


def test_bad_input():
    with pytest.raises(DataError, match="at least one example, got 0"):
        loader(n=0)
    with pytest.raises(DataError, match="batch_size must be at least 1, got 0"):
        loader(batch_size=0)
    with pytest.raises(DataError, match="same length, got 3 and 2"):
        ResidentLoader(torch.zeros(3), torch.zeros(2), 1)
    with pytest.raises(DataError, match=r"rank must be one of 0..1, got 2"):
        BatchPlan(4, 2, rank=2, world_size=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_the_gpu():
    here = loader(1, augment=None)
    there = ResidentLoader(here.x.cuda(), here.y.cuda(), 4, True, RandomGain(3), 5, lambda: 1)
    batches = list(there)
    assert all(x.is_cuda and y.is_cuda for x, y in batches)
    assert torch.equal(labels(batches).cpu(), labels(here))
    assert same(batches, there)
