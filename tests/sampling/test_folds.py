"""Folded sampling against its formula, in loops and in float64, and against what it becomes at its ends."""

import copy
import math

import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autosample import convert_, report
from autosample.errors import ConversionError, SpecError
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryConv3d, SummaryLinear, execution
from autosample.sampling.folds import Folds, convolve, hadamard

FACES = {0: SummaryLinear, 1: SummaryConv1d, 2: SummaryConv2d, 3: SummaryConv3d}


def by_the_formula(layer) -> torch.Tensor:
    """`W[n, g·Q + q, κ] = H[b(n), g] · Φ[o[n] + κ, q]`, one number at a time, with SciPy's Hadamard matrix."""
    g, groups = layer.geometry, getattr(layer, "groups", 1)
    each = g.filters // groups
    size = 1 << math.ceil(math.log2(g.windows))
    blocks = min(layer.spec.options.get("blocks") or size, each)
    matrix = scipy.linalg.hadamard(size)
    phi = layer.summary.detach().double()
    places = (g.length - g.taps) // g.grid + 1
    weight = torch.zeros(g.filters, g.channels, g.taps, dtype=torch.float64)
    for n in range(g.filters):
        block = (n % each) * blocks // each
        for m in range(g.channels):
            for k in range(g.taps):
                sign = matrix[block % size, m // g.columns]
                weight[n, m, k] = sign * phi[(n % places) * g.grid + k, m % g.columns]
    return weight.view(g.filters, g.channels, *g.kernel)


@st.composite
def layers(draw):
    axes = draw(st.sampled_from([0, 1, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3])) if axes else 1
    channels, filters = draw(st.integers(1, 13)), draw(st.integers(1, 13))
    kernel = tuple(draw(st.integers(1, 9 if axes == 1 else 3)) for _ in range(axes))
    options = {
        name: value
        for name, most in (("blocks", filters), ("overlap", math.prod(kernel)))
        if (value := draw(st.sampled_from([None, draw(st.integers(1, most))]))) is not None
    }
    changes = {"windows": draw(st.integers(1, channels))} if draw(st.booleans()) else {}
    spec = {"spec": "folded", "ratio": draw(st.sampled_from([1, 1.7, 3, 8, 40])), "options": options, **changes}
    if not axes:
        return SummaryLinear(channels, filters, bias=draw(st.booleans()), **spec).double(), (2, 3, channels)
    more = {
        "stride": draw(st.integers(1, 2)),
        "dilation": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 2)),
        "padding_mode": draw(st.sampled_from(["zeros", "circular"])),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    layer = FACES[axes](channels * groups, filters * groups, kernel, **more, **spec).double()
    return layer, (2, channels * groups, *[more["dilation"] * (k - 1) + 3 for k in kernel])


@settings(max_examples=60, deadline=None)
@given(layers())
def test_weight_outputs_and_gradients_are_those_of_the_formula(drawn):
    layer, shape = drawn
    weight = by_the_formula(layer)
    assert torch.equal(layer.weight.detach(), weight)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    with execution("materialize"):
        expected = layer(x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    push = torch.randn_like(out)
    wanted = [x, *layer.parameters()]
    mine, theirs = torch.autograd.grad(out, wanted, push), torch.autograd.grad(expected, wanted, push)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_signs_are_those_of_scipy(size):
    rows = hadamard(torch.arange(2 * size), size, torch.float32)
    assert rows.int().tolist() == 2 * scipy.linalg.hadamard(size).tolist()


def test_one_block_is_wsnet():
    folded = SummaryConv1d(12, 20, 8, spec="folded", ratio=1, windows=4, options={"blocks": 1, "overlap": 4})
    wsnet = SummaryConv1d(12, 20, 8, spec="wsnet", options={"spatial": 4, "channel": 4})
    assert folded.summary.shape == wsnet.summary.shape
    with torch.no_grad():
        wsnet.summary.copy_(folded.summary)
    assert torch.equal(folded.weight, wsnet.weight)


def test_with_the_identity_it_is_a_grouped_convolution():
    folds = Folds(filters=20, channels=12, windows=4, blocks=4)
    x, filters, bias = torch.randn(2, 12, 9, 9), torch.randn(20, 3, 3, 3), torch.randn(20)
    out = convolve(x, filters, bias, torch.eye(4), folds, (2, 1), (1, 0), (1, 2))
    torch.testing.assert_close(out, F.conv2d(x, filters, bias, (2, 1), (1, 0), (1, 2), groups=4))


@pytest.mark.parametrize(
    ("layer", "ratio"),
    [
        (nn.Conv2d(64, 64, 3), 8), (nn.Conv2d(64, 64, 3), 5.37), (nn.Conv2d(48, 96, 1), 6), (nn.Linear(768, 100), 20),
        (nn.Conv1d(32, 64, 16), 8), (nn.Conv1d(32, 64, 16), 100), (nn.Conv1d(1, 64, 64), 16), (nn.Conv2d(3, 64, 7), 8),
        (nn.Linear(16, 64), 100), (nn.Conv2d(8, 64, 3), 200), (nn.Conv2d(64, 64, 3, groups=4), 8),
    ],
)  # fmt: skip
def test_a_ratio_is_met_and_never_exceeded_silently(layer, ratio):
    dense = layer.weight.numel()
    convert_(layer, "folded", ratio=ratio, share="even")
    assert dense / ratio * 0.9 <= layer.summary.numel() <= dense / ratio * 1.001
    assert len(layer.weight.flatten(1).unique(dim=0)) == len(layer.weight)  # no two filters are equal


def test_beyond_what_a_layer_allows_the_report_says_so():
    layer = nn.Conv2d(2, 4, 1)
    with pytest.warns(UserWarning, match=r"a ratio of 8 was asked for and 4 is reached"):
        convert_(layer, "folded", ratio=8, share="even")
    assert "asked 8x, the layer allows 4x" in str(report(layer))


def test_nothing_is_stored_besides_the_summary():
    layer = SummaryConv2d(32, 64, 3, bias=False, spec="folded", ratio=8)
    assert list(layer.stored()) == ["summary"]
    assert list(layer.state_dict()) == ["summary"]


def test_dense_to_folded_is_the_mean_over_groups():
    layer = nn.Conv2d(16, 24, 3)
    weight = layer.weight.detach().clone()
    convert_(layer, "folded", ratio=4, share="even", warm_start=True)
    matrix = torch.tensor(scipy.linalg.hadamard(4), dtype=torch.float32)[torch.arange(24) * 4 // 24]
    mean = (matrix[:, :, None, None, None] * weight.view(24, 4, 4, 3, 3)).mean(1)
    torch.testing.assert_close(layer.summary.view(24, 9, 4), mean.permute(0, 2, 3, 1).reshape(24, 9, 4))


def test_training_never_makes_the_weight(monkeypatch):
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    convert_(model, "folded", ratio=4, include=["re:.*"])
    for layer in (model[0], model[3]):
        monkeypatch.setattr(type(layer), "dense_weight", lambda self: pytest.fail("the weight was made"))
    model(torch.randn(2, 8, 8, 8)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"blocks": 0}}, "blocks must be"),
        (
            {"options": {"blocks": 99}},
            "blocks must be at most 16, the filters of the layer or of its group, got 99: use fewer",
        ),
        ({"options": {"overlap": -1}}, "overlap must be"),
        ({"options": {"overlap": 10}}, "overlap must be at most 9, the layer.s taps, got 10: use less"),
        ({"options": {"block": 2}}, 'no option "block": did you mean "blocks"'),
        ({"layout": "flat"}, "folded windows lie along the taps"),
        ({"windows": 9}, "windows must be at most 8"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises((SpecError, ConversionError), match=message):
        convert_(nn.Conv2d(8, 16, 3), "folded", ratio=4, **changes)


def test_copies_compute_the_same():
    layer = SummaryLinear(24, 36, spec="folded", ratio=4)
    x = torch.randn(5, 24)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_more_blocks_than_filters_in_a_group_are_not_cut_silently():
    """The layer stays dense for a reason, as at other impossible sizes; a layer on its own is refused."""
    with pytest.raises(SpecError, match="blocks must be at most 8, the filters of the layer or of its group, got 9"):
        SummaryConv2d(8, 16, 3, groups=2, spec="folded", ratio=2, options={"blocks": 9})
    assert SummaryConv2d(8, 16, 3, groups=2, spec="folded", ratio=2, options={"blocks": 8}).folds.blocks == 8
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3, groups=2))
    told = convert_(net, "folded", ratio=4, options={"blocks": 9}).rows
    assert told[0].method == "folded"
    assert told[1].note == "blocks must be at most 8, the filters of the layer or of its group, got 9: use fewer"
