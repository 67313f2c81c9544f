"""An epitome of short axes against NES's formula (Zhou et al. 2020, eq. 4), number by number, in float64."""

import itertools
import math

import pytest
import torch
from torch import nn

import autosample
from autosample.errors import ArtifactError, SpecError
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryConv3d, SummaryLinear
from autosample.sampling.rules.epitome import Axes

LAYERS = {
    "conv2d": (SummaryConv2d, (6, 5, (3, 2)), {"windows": 3}, 2, (2, 6, 7, 8)),
    "grouped": (SummaryConv2d, (8, 6, 3), {"groups": 2}, 1.5, (2, 8, 7, 8)),
    "conv1d": (SummaryConv1d, (4, 6, 5), {"windows": 2}, 2, (2, 4, 12)),
    "conv3d": (SummaryConv3d, (4, 3, (2, 1, 3)), {"windows": 2}, 1.2, (2, 4, 4, 5, 6)),
    "pointwise": (SummaryConv2d, (12, 8, 1), {"windows": 3}, 2, (2, 12, 3, 3)),
    "linear": (SummaryLinear, (12, 8), {"windows": 4}, 2, (3, 12)),
}


def build(kind: str):
    torch.manual_seed(0)
    face, args, more, ratio, shape = LAYERS[kind]
    layer = face(*args, **more, spec={"preset": "nes", "rule": "epitome"}, ratio=ratio).double()
    return layer, torch.randn(shape, dtype=torch.float64)


def by_the_formula(layer, starts) -> torch.Tensor:
    """`θ[n, g·β + q, i, j] = Σ E[c, a, b]·k(c, q + p_c)·k(a, i + p_h)·k(b, j + p_w)`, `k(a, b) = max(0, 1 - |a - b|)`

    Number by number.
    """
    g, kernel = layer.geometry, layer.geometry.kernel
    spatial = tuple(2 * k - 1 for k in kernel)
    epitome = layer.summary.detach().double().view(-1, *spatial)
    beta = g.channels // g.windows
    weight = torch.zeros(g.filters, g.channels, *kernel, dtype=torch.float64)
    for n, group, q in itertools.product(range(g.filters), range(g.windows), range(beta)):
        for taps in itertools.product(*(range(k) for k in kernel)):
            place, total = (q, *taps), 0.0
            for cell in itertools.product(*(range(size) for size in epitome.shape)):
                near = [
                    max(0.0, 1 - abs(c - (t + float(p)))) for c, t, p in zip(cell, place, starts[n, group], strict=True)
                ]
                if all(near):
                    total += float(epitome[cell]) * math.prod(near)
            weight[(n, group * beta + q, *taps)] = total
    return weight


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_are_those_of_the_formula(kind):
    layer, x = build(kind)
    rule = layer.offsets
    assert rule.axes.window == (layer.geometry.channels // layer.geometry.windows, *layer.geometry.kernel)
    assert math.prod(rule.axes.size) == layer.summary.numel()
    last = torch.tensor(rule.axes.last)
    layer.eval()
    with torch.no_grad():
        rule.routing.copy_(torch.rand(rule.routing.shape) * last)
    torch.testing.assert_close(layer.weight.detach(), by_the_formula(layer, rule.routing))
    dense = autosample.densify(layer)
    torch.testing.assert_close(layer(x), dense(x))
    layer.freeze_()
    frozen = by_the_formula(layer, rule.routing.round())
    torch.testing.assert_close(layer.weight.detach(), frozen)
    autosample.harden_(layer)
    torch.testing.assert_close(layer.weight.detach(), frozen)


@pytest.mark.parametrize("options", [{}, {"reads": "places"}, {"forward": "map"}, {"unit": "logit"}])
def test_the_learner_moves_starts_along_each_axis(options):
    """`o = last·mean σ(z + 4d/last)` along each axis, averaged into the map; gradients reach the learner."""
    torch.manual_seed(0)
    spec = {"preset": "nes", "rule": "epitome", "options": options}
    layer, x = SummaryConv2d(4, 6, 3, windows=2, spec=spec, ratio=1.5).double(), torch.randn(5, 4, 6, 7).double()
    rule = layer.offsets
    nn.init.normal_(rule.learner[2].weight)
    start, first, last = rule.routing.clone(), rule.learner, torch.tensor(rule.axes.last).double()
    torch.testing.assert_close(rule.axes.starts(rule.start()).to(start), start)
    z = rule.centre.double()
    inputs = x.flatten(2).transpose(1, 2) if options.get("reads") == "places" else x.flatten(2).mean(2)[:, None]
    moved = first.double()(inputs).unflatten(-1, start.shape)
    scale = 1 if options.get("unit") == "logit" else 4 / last
    expected = torch.sigmoid(z + scale * moved).mean((0, 1)) * last
    layer.train()(x).square().sum().backward()
    torch.testing.assert_close(
        rule.routing.double(), (0.97 * start + 0.03 * expected).detach().double(), rtol=1e-5, atol=1e-5
    )
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in rule.learner.parameters())


def test_gradients_of_starts_are_those_of_finite_steps():
    axes = Axes((4, 5, 3), (2, 3, 2))
    summary = torch.randn(60, 1, dtype=torch.float64)
    steps = torch.rand(2, 3, 3, dtype=torch.float64) * 0.8 + 0.1  # away from whole numbers
    from autosample.sampling.windows import cut_windows

    def windows(summary, steps):
        return cut_windows(summary, axes.around(steps), 12)

    assert torch.autograd.gradcheck(windows, (summary.requires_grad_(), steps.requires_grad_()))


@pytest.mark.parametrize("size", [(4, 5, 3), (7,), (3, 1, 1), (6, 3, 1, 5)])
def test_rows_and_starts_are_inverse_and_all_boxes_are_inside(size):
    window = tuple(max(n // 2, 1) for n in size)
    axes, rows = Axes(size, window), torch.arange(math.prod(size))
    assert torch.equal(axes.rows(axes.starts(rows)), rows)
    every = axes.numbered(torch.arange(axes.boxes))
    assert len(every.unique()) == axes.boxes == math.prod(n - w + 1 for n, w in zip(size, window, strict=True))
    grid = rows.view(size)
    for first in every.tolist():
        corner = axes.starts(torch.tensor(first)).tolist()
        box = grid[tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))]
        assert torch.equal(first + axes.pattern(), box.flatten())


def test_a_warm_start_keeps_what_boxes_can_hold():
    """The least-squares epitome at the start's boxes: a weight that is made of these boxes comes back."""
    layer, _ = build("conv2d")
    weight = layer.eval().weight.detach().clone()
    with torch.no_grad():
        layer.summary.normal_()
    assert layer.fit_(weight) < 1e-6
    torch.testing.assert_close(layer.weight.detach(), weight)


def test_what_cannot_be_is_told_in_a_line():
    spec = {"preset": "nes", "rule": "epitome"}
    for changes, kind, said in (
        (
            {"options": {"patch": 2}},
            SpecError,
            "an epitome has no patches of filters, got patch 2: use the rule indexed",
        ),
        ({"windows": 3}, SpecError, "windows must divide the 8 channels, got 3: pass a divisor"),
        ({"grid": 2}, SpecError, "an epitome has no grid, got grid 2: leave it out"),
    ):
        with pytest.raises(kind) as error:
            SummaryConv2d(8, 16, 3, spec=spec, ratio=2, **changes)
        assert str(error.value) == said


def test_starts_outside_the_epitome_are_refused():
    layer, _ = build("conv2d")
    rule, bad = layer.offsets, layer.offsets().clone()
    bad[0, 0] = rule.axes.size[-1] - 1  # a box that would go on in the next line
    packed = rule.lattice.pack(rule.lattice.steps(bad))
    with pytest.raises(ArtifactError, match="must be starts of boxes"):
        rule.restored(packed)
