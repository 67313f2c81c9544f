"""Fits against closed forms, exact recovery and scikit-learn's k-means."""

import pytest
import torch
from sklearn.cluster import KMeans

from autosample import spec
from autosample.nn import SummaryConv1d, SummaryConv2d
from autosample.sampling import Placement, fit_summary, plan_geometry, sample_weight


def _samples(geometry, offsets):
    def sampled(summary):
        return sample_weight(summary, geometry, Placement(offsets))

    return sampled


@pytest.mark.parametrize("layout", ["taps", "flat"])
@pytest.mark.parametrize("windows", [1, 3])
def test_overlap_average_is_the_least_squares_solution(layout, windows):
    """Against `lstsq` on the sampling matrix itself, made column by column; cropped filters included."""
    geometry = plan_geometry(spec("random", ratio=3, layout=layout, windows=windows), (7, 5, 5))
    offsets = torch.randint(0, geometry.choices, (7, windows))
    weight = torch.randn(7, 5, 5, dtype=torch.float64)
    size = geometry.length * geometry.columns
    sampled = _samples(geometry, offsets)
    matrix = torch.stack(
        [sampled(e.view(geometry.length, -1)).flatten() for e in torch.eye(size, dtype=torch.float64)], 1
    )
    best = torch.linalg.lstsq(matrix, weight.flatten(), driver="gelsd").solution
    fitted = fit_summary(geometry.to_windows(weight), offsets, geometry)
    torch.testing.assert_close(fitted.flatten(), best, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "fields",
    [
        {"spec": "wsnet", "ratio": 4},
        {"spec": "strided", "options": {"spatial": 4, "channel": 2}},
        {"spec": "hashednet", "ratio": 4},
        {"spec": "random", "ratio": 4, "columns": "shuffle"},
        {"spec": "random", "ratio": 4, "signs": "random"},
    ],
)
def test_a_sampled_weight_is_fitted_exactly(fields):
    source = SummaryConv1d(8, 12, 6, dtype=torch.float64, **fields)
    other = SummaryConv1d(8, 12, 6, dtype=torch.float64, **fields)
    assert other.fit_(source.weight.detach()) < 1e-12
    torch.testing.assert_close(other.weight, source.weight)
    assert other.fit_error == pytest.approx(0, abs=1e-12)


def test_disjoint_windows_are_fitted_as_well_as_by_kmeans():
    weight = torch.randn(32, 16, 3, 3, dtype=torch.float64)
    layer = SummaryConv2d(16, 32, 3, spec="kmeans", ratio=16, dtype=torch.float64)
    error = layer.fit_(weight)
    rows = weight.reshape(-1, 3).numpy()
    codes = layer.geometry.length // 3
    inertia = KMeans(codes, n_init=3, random_state=0).fit(rows).inertia_
    assert error <= 1.1 * (inertia / (rows**2).sum()) ** 0.5


@pytest.mark.parametrize("preset", ["autosample", "dfsnet", "nes"])
def test_moving_windows_fits_better_than_leaving_them(preset):
    weight = torch.randn(40, 16, 8)
    moved = SummaryConv1d(16, 40, 8, spec=preset, ratio=8, options={"afford": 10})
    fixed = SummaryConv1d(16, 40, 8, spec="random", ratio=8)
    assert moved.fit_(weight) < 0.95 * fixed.fit_(weight)
    assert torch.equal(moved.offsets(), moved.offsets.hardened()())


def test_denser_layers_can_be_fitted():
    layer = SummaryConv1d(16, 8, 32, spec="wsnet", options={"spatial": 4}, denser=2)
    assert layer.densify is not None
    assert 0 < layer.fit_(torch.randn(8, 16, 32)) < 1
