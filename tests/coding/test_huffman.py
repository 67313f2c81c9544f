"""Huffman codes of packed numbers: against the entropy, and against damage."""

import zlib

import numpy as np
import pytest
import torch

from autosample.coding.huffman import decoded, encoded
from autosample.coding.packing import pack
from autosample.errors import ArtifactError


def numbers(count, choices, zeros=0.5, seed=0):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(count) < zeros, 0, rng.integers(0, choices, count))
    return torch.from_numpy(values)


def entropy(values) -> float:
    """Bits of all values, from their frequencies."""
    share = np.unique(values.numpy(), return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum()) * len(values)


@pytest.mark.parametrize(
    ("bits", "choices", "zeros", "over"),
    [
        (1, 2, 0.9, 1.05),
        (2, 4, 0.7, 1.05),
        (3, 7, 0.5, 1.05),
        (3, 7, 0.9, 1.35),
        (5, 30, 0.6, 1.1),
        (8, 200, 0.5, 1.05),
    ],
)
def test_sizes_are_near_the_entropy(bits, choices, zeros, over):
    """Whole bits per byte cost most where one byte is far more frequent than half; each block has a table too."""
    values = numbers(100_000, choices, zeros)
    coded = encoded(pack(values, bits), bits, len(values))
    assert coded is not None
    least = entropy(values) / 8
    assert least < len(coded) < over * least + 300


@pytest.mark.parametrize(("bits", "choices"), [(1, 2), (4, 9), (7, 100), (9, 300), (13, 5000), (17, 100_000)])
@pytest.mark.parametrize("count", [7, 1000, 40_001])
def test_numbers_come_back(bits, choices, count):
    packed = pack(numbers(count, choices, 0.9), bits)
    coded = encoded(packed, bits, count)
    if coded is not None:
        assert coded.dtype == torch.uint8
        assert len(coded) < len(packed)
        assert torch.equal(decoded(coded), packed)
    assert count < 1000 or coded is not None


@pytest.mark.parametrize("bits", [3, 12])
def test_large_tensors_are_decoded_in_pieces(bits, monkeypatch):
    monkeypatch.setattr("autosample.coding.huffman._PIECE", 64)
    for count in (127, 128, 129, 1000):
        packed = pack(torch.arange(count) % 2, bits)
        coded = encoded(packed, bits, count)
        assert coded is not None
        assert torch.equal(decoded(coded), packed)


def test_what_would_not_shrink_stays():
    assert encoded(pack(numbers(5000, 256, 0.0), 8), 8, 5000) is None
    assert encoded(torch.empty(10, dtype=torch.uint8, device="meta"), 8, 10) is None
    assert encoded(torch.zeros(0, dtype=torch.uint8), 0, 100) is None
    assert encoded(torch.full((100,), 255, dtype=torch.uint8), 3, 266) is None  # set bits after the last number


def head(bits, count):
    return bytes([bits, *count.to_bytes(8, "little")])


def stream(data, level=9, strategy=zlib.Z_HUFFMAN_ONLY):
    engine = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return engine.compress(data) + engine.flush()


REPEATED = stream(bytes(1 << 20), strategy=zlib.Z_DEFAULT_STRATEGY)  # a thousand bytes that become a million
HOSTILE = {
    "empty": b"",
    "short": head(3, 5)[:8],
    "no bits": head(0, 5) + stream(bytes(5)),
    "many bits": head(200, 5) + stream(bytes(5)),
    "no numbers": head(3, 0) + stream(b""),
    "too many": head(3, 1 << 20) + REPEATED,
    "far too many": head(8, 2**63) + stream(bytes(50)),
    "fewer": head(3, 50) + stream(bytes(20)),
    "more": head(3, 50) + stream(bytes(60)),
    "cut": head(5, 50) + stream(bytes(50))[:-2],
    "no stream": head(3, 20) + b"\xff" * 20,
    "large": head(5, 20) + stream(b"\x20" * 20),
    "high bits": head(3, 20) + stream(b"\x40" * 10),
    "numbers after the last": head(4, 19) + stream(b"\x11" * 10),
    "a rest": head(3, 20) + stream(bytes(10)) + b"x",
    "a plane less": head(12, 20) + stream(bytes(20)),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_tensors_are_refused(name):
    with pytest.raises(ArtifactError, match=r"^a tensor in Huffman codes .*: "):
        decoded(torch.tensor(list(HOSTILE[name]), dtype=torch.uint8))


@pytest.mark.parametrize("tensor", [torch.zeros(30), torch.zeros(2, 30, dtype=torch.uint8)])
def test_other_tensors_are_refused(tensor):
    with pytest.raises(ArtifactError, match="Huffman"):
        decoded(tensor)
