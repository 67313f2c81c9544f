"""Hashing and packing: the parts that files depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autosample.coding.packing import bits_for, pack, packed_bytes, unpack
from autosample.sampling import random_signs
from autosample.sampling.hashing import hash_table, hash_words, layer_seed, random_columns, random_offsets

FROZEN_OFFSETS = [[865, 450, 997], [109, 378, 916]]
FROZEN_SIGNS = [[-1.0, -1.0, -1.0], [1.0, -1.0, -1.0]]
FROZEN_SEED = 1694546900


def test_hash_in_plain_python_integers():
    """The algorithm is part of the file format: int64 tensors must not wrap differently from exact integers."""
    mask = (1 << 32) - 1

    def words(seed, stream, count):
        out = []
        for i in range(1, count + 1):
            w = (i * 0x3C6EF372 + seed * 0x1B873593 + stream * 0x5BD1E995) & mask
            for shift, factor in ((16, 0x45D9F3B7), (15, 0x2C1B3C6D), (16, 1)):
                w = ((w ^ (w >> shift)) * factor) & mask
            out.append(w)
        return out

    seed = torch.tensor(123456789)
    assert hash_words(seed, 4, 20).tolist() == words(123456789, 4, 20)
    rows, columns = words(123456789, 0, 5), words(123456789, 1, 7)
    expected = [[((r ^ c) * 0x2C1B3C6D & mask) * 1000 >> 32 for c in columns] for r in rows]
    assert random_offsets(seed, 5, 7, 1000).tolist() == expected


def test_a_seed_never_changes_its_meaning():
    """Frozen values: changing them would change every saved random layer."""
    assert random_offsets(torch.tensor(0), 2, 3, 1000).tolist() == FROZEN_OFFSETS
    assert random_signs(torch.tensor(0), 2, 3, torch.float32).tolist() == FROZEN_SIGNS
    assert layer_seed(0, "layer1.0.conv1") == FROZEN_SEED


def test_offsets_are_uniform_and_signs_are_fair():
    offsets = random_offsets(torch.tensor(7), 200, 100, 50).flatten().numpy()
    assert stats.chisquare(np.bincount(offsets, minlength=50)).pvalue > 1e-3
    signs = random_signs(torch.tensor(7), 200, 100, torch.float64)
    assert abs(float(signs.mean())) < 4 / np.sqrt(signs.numel())
    # rows and columns are uncorrelated, and signs do not follow offsets
    correlation = np.corrcoef(signs.numpy())
    assert np.abs(correlation[np.triu_indices(200, 1)]).max() < 6 / np.sqrt(100)
    assert abs(np.corrcoef(signs.flatten(), offsets)[0, 1]) < 4 / np.sqrt(offsets.size)


def test_no_two_filters_are_alike():
    table = hash_table(torch.tensor(3), 0, 2000, 8) * 64 >> 32
    assert len(torch.unique(table, dim=0)) == 2000
    assert len(torch.unique(table, dim=0)[:, :4].unique(dim=0)) > 1990


def test_columns_are_permutations():
    table = random_columns(torch.tensor(1), 5, 13)
    assert torch.equal(table.sort(1).values, torch.arange(13).expand(5, 13))
    assert len(torch.unique(table, dim=0)) == 5


@given(st.lists(st.integers(0, 2**17 - 1), min_size=1, max_size=50))
def test_packing_round_trip(values):
    bits = bits_for(max(values) + 1)
    if bits == 0:
        return
    packed = pack(torch.tensor(values), bits)
    assert len(packed) == packed_bytes(len(values), bits)
    assert unpack(packed, bits, len(values)).tolist() == values
    # against plain integers: one long little-endian number
    number = sum(v << (i * bits) for i, v in enumerate(values))
    assert int.from_bytes(bytes(packed.tolist()), "little") == number


@pytest.mark.parametrize(("choices", "bits"), [(1, 0), (2, 1), (3, 2), (256, 8), (257, 9)])
def test_bits(choices, bits):
    assert bits_for(choices) == bits
