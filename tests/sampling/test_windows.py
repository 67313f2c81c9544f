"""Cutting windows and its adjoint against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosample.sampling import Placement, multiplicity
from autosample.sampling.windows import cut_windows, gather_windows, scatter_windows


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 7), st.integers(0, 9), st.integers(0, 2**31))
def test_gather_and_its_adjoint(count, columns, window, slack, seed):
    generator = torch.Generator().manual_seed(seed)
    length = window + slack
    summary = torch.randn(length, columns, generator=generator, dtype=torch.float64)
    base = torch.randint(0, slack + 1, (count,), generator=generator)
    windows = gather_windows(summary, base, window)
    for p in range(count):
        for q in range(columns):
            for k in range(window):
                assert windows[p, q, k] == summary[base[p] + k, q]
    other = torch.randn(windows.shape, generator=generator, dtype=torch.float64)
    adjoint = scatter_windows(other, base, length)
    torch.testing.assert_close((windows * other).sum(), (summary * adjoint).sum())


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("step", [1, 2])
def test_a_mixture_is_the_weighted_sum_of_windows(columns, step):
    summary = torch.randn(30, columns, dtype=torch.float64)
    base, weights = torch.randint(0, 20, (4, 2)), torch.randn(4, 2, 3, dtype=torch.float64)
    mixed = cut_windows(summary, Placement(base, weights, step), 5)
    expected = sum(weights[..., j, None, None] * cut_windows(summary, Placement(base + j * step), 5) for j in range(3))
    torch.testing.assert_close(mixed, expected)


def test_blocks_do_not_change_the_result(monkeypatch):
    summary = torch.randn(200, 3, dtype=torch.float64, requires_grad=True)
    base = torch.randint(0, 150, (40, 3))
    weights = torch.rand(40, 3, 2, dtype=torch.float64, requires_grad=True)
    results = []
    for block in (1, 100, 1 << 20):
        monkeypatch.setattr("autosample.sampling.windows._BLOCK", block)
        out = cut_windows(summary, Placement(base, weights), 9)
        results.append((out, *torch.autograd.grad((out**3).sum(), (summary, weights))))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_multiplicity_counts_uses():
    offsets = torch.tensor([[0, 2], [2, 5]])
    counts = [sum(int(o) <= row < int(o) + 3 for o in offsets.flatten()) for row in range(8)]
    assert multiplicity(offsets, 3, 8).tolist() == counts


def test_functorch_transforms_go_through():
    base = torch.randint(0, 5, (3, 2))
    weights = torch.rand(3, 2, 2, dtype=torch.float64)
    summaries = torch.randn(4, 12, 2, dtype=torch.float64)

    def loss(summary):
        return cut_windows(summary, Placement(base, weights), 4).square().sum()

    batched = torch.func.vmap(torch.func.grad(loss))(summaries)
    torch.testing.assert_close(batched, torch.stack([torch.func.grad(loss)(s) for s in summaries]))
