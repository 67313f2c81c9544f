"""The count of Deep k-Means for WRN-16-4 (Wu et al. 2018): by its formula, and by the bytes of files.

`Σ (K·s·32 + N·H + 32·bias)` bits for convolutions, with `N` rows of `s` weights and `K` codewords, one of them zero
for a share of the rows, and 32 bits for each number of the classifier. The paper gives no entropies `H`; those of
equally frequent codewords are the largest that it can have meant, so its compression is at least what comes out.
"""

import math

import pytest
import torch

from autosample import convert_, report
from autosample.models import create

N = [
    144, 3072, 12288, 1024, 12288, 12288, 24576, 49152, 8192, 49152, 49152, 98304, 196608, 32768, 196608, 196608,
]  # fmt: skip
K = [144, 90, 80, 50, 30, 30, 100, 50, 10, 50, 50, 30, 7, 12, 7, 7]
FEWER = [*K[:11], 7, 6, 12, 7, 7]
ZEROS = [0, 0.3, 0.4, 0.5, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.9, 0.5, 0.75, 0.9]
MORE = [*ZEROS[:11], 0.87, *ZEROS[12:]]
#: codewords, zeros, compression by entropies, at fixed length, and of our files
CASES = {
    "45": (K, ZEROS, 43.28, 22.34, 41.55),
    "47": (FEWER, ZEROS, 45.44, 23.53, 43.58),
    "50": (FEWER, MORE, 48.16, 23.53, 45.90),
}


def convolutions(net):
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, torch.nn.Conv2d)}


def entropy(codewords: int, zeros: float) -> float:
    """Bits of an index: zero has its share, and the others are equally frequent."""
    if not zeros:
        return math.log2(codewords)
    return -zeros * math.log2(zeros) - (1 - zeros) * math.log2((1 - zeros) / (codewords - 1))


def counted(net, codewords, index_bits) -> float:
    """The paper's compression of a net."""
    bits = 32 * sum(p.numel() for p in net.fc.parameters())
    for layer, count, each in zip(convolutions(net).values(), codewords, index_bits, strict=True):
        size = layer.kernel_size[1]
        bits += count * size * 32 + layer.weight.numel() // size * each + 32 * layer.bias.numel()
    return 32 * sum(p.numel() for p in net.parameters()) / bits


def test_the_rows_of_the_net():
    with torch.device("meta"):
        net = create("wrn16_4", num_classes=10, bias=True)
    layers = convolutions(net).values()
    assert [layer.weight.numel() // layer.kernel_size[1] for layer in layers] == N
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(2.75e6, rel=1e-3)


@pytest.mark.parametrize("case", list(CASES))
def test_compression_by_the_papers_count(case):
    codewords, zeros, coded, fixed, _ = CASES[case]
    with torch.device("meta"):
        net = create("wrn16_4", num_classes=10, bias=True)
    entropies = [entropy(k, p) for k, p in zip(codewords, zeros, strict=True)]
    assert counted(net, codewords, entropies) == pytest.approx(coded, abs=0.01)
    whole = [math.ceil(math.log2(k)) for k in codewords]
    assert counted(net, codewords, whole) == pytest.approx(fixed, abs=0.01)


def clustered(codewords, zeros):
    """The net with indices of these frequencies."""
    torch.manual_seed(0)
    net = create("wrn16_4", num_classes=10, bias=True)
    names = convolutions(net)
    ratios = {name: {"ratio": n / k} for name, n, k in zip(names, N, codewords, strict=True) if n > k}
    scalars = {"pointwise": {"window": 1}}
    convert_(net, "kmeans", include=list(ratios), overrides=ratios, by_kind=scalars, ratio=2)
    for name, share, count in zip(names, zeros, codewords, strict=True):
        if name in ratios:
            rule = net.get_submodule(name).offsets
            p = rule.lattice
            assert p.choices == count
            rows = torch.randint(1, count, (p.filters, p.windows))
            rule.assign(rows.masked_fill(torch.rand(p.filters, p.windows) < share, 0) * p.grid)
    return net


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c != "45")) for c in CASES])
def test_compression_of_files(case):
    """Huffman codes come near the entropies: the paper's count without norms, in the report's bytes."""
    codewords, zeros, coded, fixed, ours = CASES[case]
    rows = report(clustered(codewords, zeros)).rows[:-1]
    dense = 4 * 2_751_146
    assert dense / sum(row.stored_bytes for row in rows) == pytest.approx(fixed, rel=2e-3)
    assert 0.94 * coded < dense / sum(row.coded_bytes for row in rows) < coded
    assert dense / sum(row.coded_bytes for row in rows) == pytest.approx(ours, abs=0.1)
