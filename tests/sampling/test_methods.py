"""Every method's weights against a brute-force loop written from its paper's formula, in float64, exactly."""

import pytest
import torch

from autosample import spec
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryLinear
from autosample.sampling import (
    RULES,
    Geometry,
    Lattice,
    Placement,
    TableOffsets,
    plan_geometry,
    random_signs,
    sample_weight,
)
from autosample.sampling.rules.interpolated import InterpolatedOffsets


@pytest.mark.parametrize(("taps", "channels", "filters"), [(32, 8, 16), (9, 6, 5), (4, 16, 33)])
@pytest.mark.parametrize(("spatial", "compact"), [(4, 2), (8, 1), (1, 4), (3, 16)])
def test_wsnet_is_the_papers_formula(taps, channels, filters, spatial, compact):
    options = {"spatial": spatial, "channel": compact}
    layer = SummaryConv1d(channels, filters, taps, spec="wsnet", options=options, dtype=torch.float64)
    phi, weight = layer.summary, layer.weight
    stride, columns = -(-taps // spatial), phi.shape[1]
    assert phi.shape[0] == taps + (filters - 1) * stride  # L* = L + (N − 1)·S
    assert channels % columns == 0
    assert channels / columns <= compact
    for n in range(filters):
        for m in range(channels):
            for i in range(taps):
                assert weight[n, m, i] == phi[n * stride + i, m % columns]


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (9, 3, 5), (12, 20), (8, 8, 1, 1)])
def test_fsnet_is_overlapping_segments_of_one_vector(shape):
    geometry = plan_geometry(spec("fsnet", ratio=2), shape)
    summary = torch.randn(geometry.length, 1, dtype=torch.float64)
    size, filters = geometry.window, shape[0]
    step = (geometry.length - size) // (filters - 1)
    assert geometry.length == size + (filters - 1) * step
    layer = _layer(shape, "fsnet", ratio=2)
    layer.summary.data = summary
    for n in range(filters):
        assert torch.equal(layer.weight[n].flatten(), summary[n * step : n * step + size, 0])


def test_hashednet_follows_a_table_given_from_outside():
    filters, inputs, buckets = 7, 11, 13
    index = torch.randint(0, buckets, (filters, inputs))
    sign = torch.randint(0, 2, (filters, inputs)).double() * 2 - 1
    summary = torch.randn(buckets, 1, dtype=torch.float64)
    geometry = plan_geometry(spec("hashednet", ratio=filters * inputs / buckets), (filters, inputs))
    assert (geometry.window, geometry.windows, geometry.length) == (1, inputs, buckets)
    weight = sample_weight(summary, geometry, Placement(index), factors=sign)
    for i in range(filters):
        for j in range(inputs):
            assert weight[i, j] == summary[index[i, j], 0] * sign[i, j]  # V[i, j] = w[h(i, j)]·ξ(i, j)


def test_hashednet_layer_equals_the_feature_map_view():
    """`W·a = wᵀφ(a)` with `φ_i(a)[k] = Σ_{j: h(i,j)=k} ξ(i,j)·a_j` (HashedNets, section 4.3)."""
    layer = SummaryLinear(20, 6, bias=False, spec="hashednet", ratio=5, dtype=torch.float64)
    a, h = torch.randn(20, dtype=torch.float64), layer.offsets()
    signs = random_signs(layer.sign_seed, 6, 20, torch.float64)
    features = torch.zeros(6, len(layer.summary), dtype=torch.float64)
    for i in range(6):
        for j in range(20):
            features[i, h[i, j]] += signs[i, j] * a[j]
    torch.testing.assert_close(layer(a), features @ layer.summary[:, 0], rtol=0, atol=1e-15)


def test_kmeans_is_a_codebook():
    layer = SummaryConv2d(4, 6, 3, spec="kmeans", ratio=3, dtype=torch.float64)
    codes = layer.summary.view(-1, 3)  # a window is one kernel row
    indices = (layer.offsets() // 3).view(6, 4, 3)
    assert torch.equal(layer.offsets() % 3, torch.zeros(6, 12, dtype=torch.long))
    for n in range(6):
        for m in range(4):
            for row in range(3):
                assert torch.equal(layer.weight[n, m, row], codes[indices[n, m, row]])


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (9, 3, 5), (12, 20)])
def test_dense_is_the_identity(shape):
    layer = _layer(shape, "dense")
    assert torch.equal(layer.weight.flatten(), layer.summary.flatten())
    weight = torch.randn(shape, dtype=torch.float64)
    assert layer.fit_(weight) == 0
    assert torch.equal(layer.weight, weight)


# Pairs of presets, with changes, that must give the same weights from the same summary.
EQUIVALENT = [
    (("wsnet", {"options": {"spatial": 4}}), ("strided", {"layout": "taps", "windows": 1})),
    (("wsnet", {"options": {"spatial": 4, "channel": 2}}), ("interpolated", {"layout": "taps", "windows": 2})),
    (("fsnet", {}), ("dfsnet", {"options": {"unit": "positions", "start": "strided"}})),
    (("random", {"seed": 3}), ("autosample", {"seed": 3, "windows": 4, "options": {"start": "random", "afford": 10}})),
    (("random", {}), ("nes", {"options": {"start": "random"}})),
    (("random", {}), ("assigned", {"options": {"start": "random"}})),
    (("fsnet", {}), ("interpolated", {"layout": "flat", "windows": 1})),
    (("random", {}), ("categorical", {"options": {"start": "random"}})),
    (("fsnet", {}), ("categorical", {"layout": "flat"})),
    (("fsnet", {}), ("dfsnet", {"rule": "strided"})),
    (("kmeans", {}), ("random", {"grid": "window", "layout": "flat", "window": "row"})),
]


@pytest.mark.parametrize(("left", "right"), EQUIVALENT)
def test_equivalent_rules(left, right):
    shape = (10, 8, 12)
    left_spec = _spec(*left)
    geometry = plan_geometry(left_spec, shape)
    summary = torch.randn(geometry.length, geometry.columns, dtype=torch.float64)
    torch.testing.assert_close(
        _sampled(left_spec, geometry, summary), _sampled(_spec(*right), geometry, summary), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "changes", [{"ratio": 4}, {"ratio": 9.3, "options": {"strides": "any"}}, {"ratio": 3, "grid": 2}]
)
@pytest.mark.parametrize("shape", [(10, 8, 12), (7, 6, 3, 3), (1, 4, 9), (5, 30)])
def test_wsnet_is_the_even_spread_that_it_was_as_a_sum_of_two_rules(shape, changes):
    """`o[n, g] = ⌊n·last/(N − 1)⌋` grid steps in every group: until 0.1.0 that was a sum of rules with no spread."""
    layer = _layer(shape, "wsnet", **changes)
    g, filters = layer.geometry, shape[0]
    assert layer.spec.rule == "strided"
    steps = [n * (g.limit // g.grid) // max(filters - 1, 1) for n in range(filters)]
    assert layer.offsets().tolist() == [[step * g.grid] * g.windows for step in steps]
    weight = torch.empty(filters, g.windows, g.columns, g.window, dtype=torch.float64)
    for n, step in enumerate(steps):
        weight[n] = layer.summary[step * g.grid : step * g.grid + g.window].t()
    assert torch.equal(layer.weight, g.to_weight(weight))


def test_nes_with_frozen_routing_is_interpolation():
    """In evaluation mode NES is interpolation at its routing map, whatever the input."""
    layer = SummaryConv1d(4, 6, 5, spec="nes", ratio=2, dtype=torch.float64).eval()
    layer.offsets.routing.mul_(0.9).add_(0.25)
    fixed = InterpolatedOffsets(layer.offsets.lattice)
    fixed.position.data = layer.offsets.routing.clone()
    expected = sample_weight(layer.summary, layer.geometry, fixed.placement())
    layer(torch.randn(2, 4, 9, dtype=torch.float64))
    torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-5)  # the map itself is float32


def test_denser_sampling_is_a_convolution_then_a_pointwise_one():
    layer = SummaryConv1d(16, 8, 32, bias=False, spec="wsnet", options={"spatial": 8}, denser=2, dtype=torch.float64)
    assert layer.geometry.sampled == 16
    x = torch.randn(2, 16, 50, dtype=torch.float64)
    twin = SummaryConv1d(16, 16, 32, bias=False, spec="wsnet", options={"spatial": 8}, dtype=torch.float64)
    twin.geometry = Geometry(**{**vars(layer.geometry), "filters": 16})
    twin.summary, twin.offsets = layer.summary, layer.offsets
    expected = torch.einsum("ns,bst->bnt", layer.densify, twin(x))
    torch.testing.assert_close(layer(x), expected)


def _layer(shape, preset, **changes):
    options = {"spec": preset, "dtype": torch.float64, "bias": False, **changes}
    if len(shape) == 2:
        return SummaryLinear(shape[1], shape[0], **options)
    face = SummaryConv1d if len(shape) == 3 else SummaryConv2d
    return face(shape[1], shape[0], shape[2:], **options)


def _spec(name, changes):
    """A spec by preset or by rule, with a size."""
    size = {} if "spatial" in changes.get("options", {}) else {"ratio": 4}
    return spec(name, **size, **changes)


def _sampled(chosen, geometry, summary):
    rule = RULES[chosen.rule](Lattice.of(geometry), chosen.settings, seed=chosen.seed).double().eval()
    return sample_weight(summary, geometry, rule.placement())


def test_table_offsets_hold_what_they_are_given():
    table = torch.tensor([[0, 4], [8, 2]])
    assert torch.equal(TableOffsets(Lattice(2, 2, 8, 2), table)(), table)
