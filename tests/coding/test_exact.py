"""Whole numbers that averages, casts and empty memory leave alone."""

import copy

import pytest
import torch

from autosample.coding.exact import Exact
from autosample.coding.packing import from_bits, to_bits
from autosample.sampling.rules import InterpolatedOffsets, Lattice


class Holder(Exact):
    def __init__(self, values: torch.Tensor, width: int, device: str = "cpu") -> None:
        super().__init__()
        self.values, self.width = values, width
        self.keep("number", values.to(device), width)

    def fresh(self, name: str) -> torch.Tensor:
        return self.values


@pytest.mark.parametrize(
    ("values", "width"),
    [
        (torch.arange(1000).view(10, 100), 10),
        (torch.tensor([2**63 - 1, -(2**63), -1, 0, 12345678901234567]), 64),
        (torch.tensor(7), 3),
        (torch.zeros(3, 2), 0),
    ],
)
def test_bits_and_back(values, width):
    bits = to_bits(values, width)
    assert bits.dtype == torch.bool
    assert bits.shape == (*values.shape, width)
    assert torch.equal(from_bits(bits), values.long())


@pytest.mark.parametrize("decay", [0.999, 0.5, 0.9999])
def test_an_average_in_floating_point_changes_nothing(decay):
    holder = Holder(torch.randint(0, 2**20, (50, 50)), 20)
    average = holder.number_bits.clone()
    for _ in range(200):
        average.copy_(average * decay + holder.number_bits * (1 - decay))
    assert torch.equal(from_bits(average), holder.kept("number"))


def test_the_numbers_themselves_would_not_survive():
    numbers = torch.randint(0, 2**30, (50, 50))
    average = numbers.clone()
    average.copy_(average * 0.999 + numbers * 0.001)
    assert not torch.equal(average, numbers)


def test_zero_becomes_the_number():
    holder = Holder(torch.tensor(12345), 20)
    average = torch.zeros(20, dtype=torch.bool)
    average.copy_(average * 0.999 + holder.number_bits * 0.001)
    assert int(from_bits(average)) == 12345


def test_casts_and_empty_memory_leave_them():
    holder = Holder(torch.arange(100), 7)
    for change in (holder.half, holder.double, holder.bfloat16, lambda: holder.to_empty(device="cpu")):
        change()
        assert torch.equal(holder.kept("number"), torch.arange(100))


def test_a_module_on_the_meta_device_makes_them_again():
    holder = Holder(torch.arange(100), 7, device="meta")
    assert holder.kept("number").is_meta
    holder.to_empty(device="cpu")
    assert torch.equal(holder.kept("number"), torch.arange(100))


def test_a_state_of_version_0_1_0_holds_the_numbers_themselves():
    holder = Holder(torch.zeros(100), 7)
    holder.load_state_dict({"number": torch.arange(100, dtype=torch.int32)})
    assert torch.equal(holder.kept("number"), torch.arange(100))
    with pytest.raises(RuntimeError, match="number_bits"):
        holder.load_state_dict({})


def test_a_state_of_version_0_1_0_that_was_not_frozen_leaves_averages_alone():
    """It held the start where zeros are kept now: with them, an average of models becomes what is frozen later."""
    lattice = Lattice(filters=6, windows=2, limit=40)
    rule = InterpolatedOffsets(lattice)
    old = {"table": rule.start().int(), "frozen": torch.tensor(False), "position": torch.rand(6, 2) * 40}
    rule.load_state_dict(old)
    average = copy.deepcopy(rule)
    rule.freeze()
    for mine, theirs in zip(average.buffers(), rule.buffers(), strict=True):
        mine.copy_(mine * 0.9 + theirs * 0.1)
    average.freeze()
    assert torch.equal(average(), rule())
