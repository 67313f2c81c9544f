"""k-means and its penalties, against numpy, scikit-learn and the formulas of Wu et al. 2018."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import autosample
from autosample.coding.clusters import Clusters, Subspace, cluster
from autosample.errors import SpecError
from autosample.nn import SummaryConv2d


def samples(count=200, size=3, seed=0):
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def penalty(projection, x) -> float:
    return float(projection.residual(x).square().sum()) / 2


@pytest.mark.parametrize("count", [1, 2])
def test_the_spectral_penalty_is_the_trace_formula(count):
    """`½·[Tr(WᵀW) − Tr(Fᵀ WᵀW F)]` with the `N × N` matrices that the library never makes, fresh and stale."""
    x, later = samples(), samples(seed=1)
    f = np.linalg.svd(x.numpy().T)[2][:count].T  # the first right singular vectors of W = Xᵀ
    for now in (x, later):
        w = now.numpy().T
        expected = (np.trace(w.T @ w) - np.trace(f.T @ w.T @ w @ f)) / 2
        assert penalty(Subspace.of(x, count), now) == pytest.approx(expected, rel=1e-10)
        gradient = w @ (np.eye(w.shape[1]) - f @ f.T)
        np.testing.assert_allclose(Subspace.of(x, count).residual(now).numpy().T, gradient, atol=1e-10)


@pytest.mark.parametrize("count", [3, 4, 50])
def test_the_rank_trap(count):
    """With K at least the length of a row, the exact F has no penalty and no gradient; only a stale one has."""
    x = samples()
    exact = Subspace.of(x, count)
    assert exact.basis.shape == (200, 3)
    assert penalty(exact, x) < 1e-24
    assert exact.residual(x).abs().max() < 1e-12
    assert penalty(exact, samples(seed=1)) > 1


@pytest.mark.parametrize("count", [2, 7, 40])
def test_the_indicator_penalty_is_half_the_squared_error_of_k_means(count):
    x = samples()
    found = KMeans(count, n_init=1, random_state=0).fit(x.numpy())
    labels = torch.from_numpy(found.labels_).long()
    assert penalty(Clusters(labels, count), x) == pytest.approx(found.inertia_ / 2, rel=1e-9)
    f = np.eye(count)[found.labels_] / np.sqrt(np.bincount(found.labels_))  # F_ij = 1/√n_j
    expected = x.numpy() - f @ (f.T @ x.numpy())
    np.testing.assert_allclose(Clusters(labels, count).residual(x).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("size", "count"), [(3, 20), (9, 10), (1, 8), (3, 150)])
def test_clusters_are_as_good_as_those_of_scikit_learn(size, count):
    x = samples(1500, size)
    mine = float(Clusters.of(x, count).residual(x).square().sum())
    assert mine <= 1.08 * KMeans(count, n_init=1, random_state=0).fit(x.numpy()).inertia_


def test_clusters_of_few_or_equal_samples():
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 3.0]])
    labels = cluster(x, 8)
    assert labels[0] == labels[1] != labels[2]
    assert cluster(torch.ones(5, 2), 3).unique().numel() == 1
    assert torch.equal(cluster(x, 8), labels)


@pytest.mark.parametrize("count", [2, 5])
def test_the_smallest_share_is_drawn_to_zero(count):
    x = samples()
    small = np.argsort(np.linalg.norm(x.numpy(), axis=1))[: round(0.3 * 200)]
    clusters = Clusters.of(x, count, 0.3)
    assert set((clusters.labels == 0).nonzero()[:, 0].tolist()) == set(small.tolist())
    rest = np.delete(x.numpy(), small, 0)
    best = KMeans(count - 1, n_init=3, random_state=0).fit(rest).inertia_ + (x.numpy()[small] ** 2).sum()
    assert best <= 2 * penalty(clusters, x) * (1 + 1e-9) <= 1.15 * best
    for pulled in (clusters, Subspace.of(x, count, 0.3)):
        assert torch.equal(pulled.residual(x)[small], x[small])
    f = np.linalg.svd(np.where(np.isin(np.arange(200), small)[:, None], 0, x.numpy()), full_matrices=False)[0]
    expected = x.numpy() - f[:, :count] @ (f[:, :count].T @ x.numpy())
    np.testing.assert_allclose(Subspace.of(x, count, 0.3).residual(x).numpy(), expected, atol=1e-10)


def test_a_warm_start_with_zeros(tmp_path):
    """The preset gets the sparse variant's codeword of zeros, which the smallest rows use, also in a saved model."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3))
    rows = model[0].weight.detach().reshape(-1, 3)
    autosample.convert_(model, "kmeans", ratio=8, options={"zeros": 0.4}, warm_start=True)
    now = model[0].weight.detach().reshape(-1, 3)
    small = rows.norm(dim=1).argsort()[: round(0.4 * len(rows))]
    assert torch.equal(now[small], torch.zeros(len(small), 3))
    assert (now == 0).all(1).sum() == len(small)
    autosample.save(model, tmp_path / "net", factory=lambda: torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3)))
    loaded = autosample.load(tmp_path / "net", factory=lambda: torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3)))
    assert torch.equal(loaded[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"options": {"zeros": 1.5}}, "zeros must be between 0 and 1"),
        ({"options": {"zeros": 0.5}, "grid": 1}, "disjoint"),
    ],
)
def test_zeros_out_of_range(fields, text):
    with pytest.raises(SpecError, match=text):
        SummaryConv2d(4, 8, 3, spec="kmeans", ratio=4, **fields)
