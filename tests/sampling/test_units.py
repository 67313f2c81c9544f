"""Units of learned offsets: rates mean rows, the papers' own units stay, and earlier states keep their meaning."""

import math

import pytest
import torch
from torch import nn

import autosample
from autosample import spec
from autosample.errors import SpecError
from autosample.models import create
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryLinear, compressed_layers, kinds
from autosample.sampling import RULES, Lattice, sample_weight

LATTICE = Lattice(5, 3, 4000, 1)
DFSNET, NES = RULES["interpolated"], RULES["indexed"]


def dfsnet(unit, lattice=LATTICE, **options):
    return DFSNET(lattice, DFSNET.Options(unit=unit, **options))


def nes(lattice=LATTICE, channels=6, **options):
    return NES(lattice, NES.Options(start="random", **options), in_channels=channels).train()


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def check_weight(layer, weight, offsets):
    """The papers' interpolation at real-valued offsets `(N, G)`, in plain loops."""
    g, summary = layer.geometry, layer.summary.detach()
    windows = g.to_windows(weight.detach())
    for n in range(g.sampled):
        for w in range(g.windows):
            low = min(math.floor(float(offsets[n, w])), g.limit - 1)
            share = float(offsets[n, w]) - low
            expected = (1 - share) * summary[low : low + g.window] + share * summary[low + 1 : low + 1 + g.window]
            torch.testing.assert_close(windows[n, w].t(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("unit", ["sigmoid", "logit"])
def test_dfsnet_is_the_papers_formula(unit):
    """`l = (L − K)·σ(α)`, and in rows `α = 4a/(L − K)` (DFSNet, section 3.3)."""
    layer = SummaryConv2d(4, 6, 3, bias=False, spec="dfsnet", ratio=2, options={"unit": unit}, dtype=torch.float64)
    assert layer.geometry.windows == 1
    with torch.no_grad():
        layer.offsets.value.add_(torch.randn_like(layer.offsets.value))
    last, value = layer.geometry.limit, layer.offsets.value.detach().double()
    scale = 4 / last if unit == "sigmoid" else 1
    offsets = torch.tensor([[last * sigmoid(float(v) * scale)] for v in value])
    check_weight(layer, layer.weight, offsets)


@pytest.mark.parametrize(("unit", "rows"), [("positions", 0.02), ("sigmoid", 0.02), ("logit", 0.02 * 4000 / 4)])
def test_a_step_of_adam_moves_an_offset_by_its_rate_in_rows(unit, rows):
    """In the middle of the range by the rate itself; nearer to the ends, a sigmoid moves by less."""
    rule = dfsnet(unit).double()
    rule.assign(torch.full((5, 3), 2000))
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.02)
    (rule.soft_offsets() * torch.randn(5, 3)).sum().backward()
    optimizer.step()
    assert ((rule.soft_offsets() - 2000).abs() - rows).abs().max() < 1e-2 * rows
    assert rule.speed(0.02) == pytest.approx(rows)
    rule.assign(torch.full((5, 3), 40))
    before = rule.soft_offsets().detach()
    with torch.no_grad():
        rule.value.add_(0.02)
    assert (rule.soft_offsets() - before).abs().max() <= rows * 1.001


@pytest.mark.parametrize("grid", [1, 4])
@pytest.mark.parametrize("unit", ["positions", "sigmoid", "logit"])
def test_offsets_start_where_they_are_put(unit, grid):
    lattice = Lattice(50, 1, 4000, grid)
    rule = dfsnet(unit, lattice, start="strided")
    assert torch.equal(rule(), lattice.strided())
    assert (rule.soft_offsets() - lattice.strided()).abs().max() <= 0.4 * grid + 1e-3
    with torch.no_grad():
        rule.value.add_(1.0)
    rule.reset_parameters()
    assert torch.equal(rule(), lattice.strided())


@pytest.mark.parametrize("unit", ["sigmoid", "logit"])
def test_earlier_states_of_dfsnet_keep_their_offsets(unit):
    """Until then, `position` was `α` in `o = last·σ(α)`."""
    alpha = torch.randn(5, 3) * 3
    rule = dfsnet(unit)
    old = {**rule.state_dict(), "position": alpha}
    del old[rule.name]
    assert rule.in_old_unit(old)
    assert not rule.in_old_unit(rule.state_dict())
    rule.load_state_dict(old)
    expected = 4000 * torch.sigmoid(alpha.double())
    torch.testing.assert_close(rule.soft_offsets().double(), expected, rtol=0, atol=2e-3)
    assert torch.equal(rule(), expected.round().long())


class OldLearner(nn.Module):
    """The index learner as it was: its last bias began as the logit of the start."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.learner = nn.Sequential(nn.Linear(channels, 16), nn.ReLU(), nn.Linear(16, outputs))

    def forward(self, x):
        return torch.sigmoid(self.learner(x)).mean(0)


@pytest.mark.parametrize("unit", ["sigmoid", "logit"])
def test_earlier_states_of_nes_predict_what_they_did(unit):
    rule, old = nes(unit=unit), OldLearner(6, 15)
    state = {**rule.state_dict(), **{f"learner.{k}": v for k, v in old.learner.state_dict().items()}}
    del state["centre"]
    assert rule.in_old_unit(state)
    assert not rule.in_old_unit(rule.state_dict())
    rule.load_state_dict(state)
    x = torch.randn(7, 6)
    rule.observe(x[:, None])
    torch.testing.assert_close(rule._current.flatten(), old(x) * 4000, rtol=0, atol=5e-3)


@pytest.mark.parametrize("reads", ["pooled", "places"])
@pytest.mark.parametrize("unit", ["sigmoid", "logit"])
def test_the_index_learner_is_the_papers_formula(unit, reads):
    """Two pointwise layers at every place, a sigmoid, the mean over space and batch, scaled to the range."""
    layer = SummaryConv2d(3, 4, 3, spec="nes", ratio=2, options={"unit": unit, "reads": reads}, dtype=torch.float64)
    rule, last = layer.offsets.double(), layer.geometry.limit
    first, _, second = rule.learner.requires_grad_(False)
    second.weight.normal_()
    second.bias.normal_()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    before, start = rule.routing.clone(), rule.start()
    rule.observe(kinds.places(x, len(layer.geometry.kernel)))
    places = [[float(v) for v in x[b, :, i, j]] for b in range(2) for i in range(4) for j in range(5)]
    if reads == "pooled":
        places = [[sum(p[c] for p in places[20 * b : 20 * b + 20]) / 20 for c in range(3)] for b in range(2)]
    for n in range(4):
        for g in range(layer.geometry.windows):
            o, total = n * layer.geometry.windows + g, 0.0
            margin = 0.4 / last
            share = min(max(float(start[n, g]) / last, margin), 1 - margin)
            z = math.log(share / (1 - share))
            for p in places:
                hidden = [max(sum(float(w) * v for w, v in zip(row, p, strict=True)) + float(b), 0.0)
                          for row, b in zip(first.weight, first.bias, strict=True)]  # fmt: skip
                d = sum(float(w) * h for w, h in zip(second.weight[o], hidden, strict=True)) + float(second.bias[o])
                total += sigmoid(z + d * (4 / last if unit == "sigmoid" else 1))
            found = float(rule._current[n, g])
            assert found == pytest.approx(last * total / len(places), abs=1e-4)  # its start was computed in float32
            assert float(rule.routing[n, g]) == pytest.approx(0.97 * float(before[n, g]) + 0.03 * found, abs=1e-4)


def test_the_learner_begins_at_the_start():
    rule = nes()
    rule.observe(torch.randn(4, 9, 6))
    assert (rule._current - rule.start()).abs().max() < 0.5
    assert torch.equal(rule(), rule.start())


def test_the_map_in_the_forward_pass_has_the_gradient_of_the_prediction():
    made = {}
    for forward in ("batch", "map"):
        torch.manual_seed(0)
        layer = SummaryConv1d(4, 6, 5, spec="nes", ratio=2, options={"forward": forward}, dtype=torch.float64)
        rule = layer.offsets.double()
        with torch.no_grad():
            rule.learner[2].weight.normal_()
            rule.routing.copy_(rule.routing.clamp(1, layer.geometry.limit - 1) + 0.3)
        x = torch.randn(3, 4, 9, dtype=torch.float64)
        rule.observe(kinds.places(x, len(layer.geometry.kernel)))
        steps = rule.routing if forward == "map" else rule._current.detach()
        weight = layer.dense_weight()
        check_weight(layer, weight, steps.detach())
        made[forward] = (layer, weight, x)
    layer, weight, _ = made["map"]
    upstream = torch.randn_like(weight)
    (through,) = torch.autograd.grad(weight, layer.offsets.learner[2].bias, upstream)
    # ∂W/∂o is the difference of the two windows; ∂o/∂d of one prediction follows from the learner
    rule = layer.offsets
    shift = torch.zeros_like(rule.routing, requires_grad=True)
    rule.forget()
    map_now, rule.routing = rule.routing, rule.routing + shift
    (by_offset,) = torch.autograd.grad(layer.dense_weight(), shift, upstream)
    rule.routing = map_now
    again = rule._predicted(rule.learner, kinds.places(made["map"][2], len(layer.geometry.kernel)))
    (expected,) = torch.autograd.grad(again, rule.learner[2].bias, by_offset)
    torch.testing.assert_close(through, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_learner_computes_outside_autocast(dtype):
    """In bfloat16 offsets were off by 8 rows in the mean, and by 49 at most."""
    rule = nes()
    with torch.no_grad():
        rule.learner[2].weight.normal_()
    x, twin = torch.randn(16, 5, 6), nes()
    twin.load_state_dict(rule.state_dict())
    with torch.autocast("cpu", dtype=dtype):
        rule.observe(x)
    twin.observe(x)
    assert torch.equal(rule._current, twin._current)
    assert torch.equal(rule.routing, twin.routing)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_layer_in_mixed_precision_samples_at_the_offsets_of_float32(kind):
    made = {"conv": lambda: SummaryConv2d(8, 16, 3, spec="nes", ratio=2),
            "linear": lambda: SummaryLinear(64, 48, spec="nes", ratio=2)}[kind]  # fmt: skip
    layer, x = made(), torch.randn(8, *((8, 6, 6) if kind == "conv" else (64,)))
    with torch.no_grad():
        layer.offsets.learner[2].weight.normal_()
    start, seen = layer.offsets.routing.clone(), []
    for mixed in (False, True):
        layer.offsets.routing.copy_(start)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            layer(x)
        seen.append(layer.offsets.routing.clone())
    assert not torch.equal(seen[0], start)
    assert torch.equal(seen[0], seen[1])


def test_the_learner_stays_float32_in_half_precision_models():
    layer = SummaryConv1d(4, 6, 5, spec="nes", ratio=2).bfloat16()
    assert {p.dtype for p in layer.offsets.parameters()} == {torch.float32}
    assert layer.offsets.routing.dtype == layer.offsets.centre.dtype == torch.float32
    assert layer.summary.dtype == torch.bfloat16
    layer(torch.randn(2, 4, 9, dtype=torch.bfloat16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.offsets.parameters())


def test_presets_have_rates_in_rows():
    assert dict(spec("dfsnet").options) == {"unit": "sigmoid", "rate": 0.02, "freeze_at": 0.6}
    assert spec("dfsnet").for_kind("linear").options["rate"] == 0.1
    assert dict(spec("nes").options) == {"start": "random", "unit": "sigmoid", "freeze_at": 0.6}


def test_weights_of_frozen_offsets_are_those_of_integers():
    rule = dfsnet("sigmoid", Lattice(4, 1, 20, 1)).double()
    with torch.no_grad():
        rule.value.add_(torch.randn(4, 1))
    layer = SummaryLinear(10, 4, bias=False, spec="fsnet", ratio=1.5, dtype=torch.float64)
    expected = (20 * torch.sigmoid(rule.value * 4 / 20)).round().long()
    rule.freeze()
    assert torch.equal(rule(), expected)
    weight = sample_weight(torch.arange(31.0).double()[:, None], layer.geometry, rule.placement())
    assert torch.equal(weight[:, 0], expected[:, 0].double())


@pytest.mark.parametrize("grid", [1, 2])
@pytest.mark.parametrize("patch", [2, 3])
def test_patches_are_the_papers_wrapping_along_channels_and_filters(patch, grid):
    """Patches of `w × β1 × β2` numbers of an epitome, one below the other along channels and filters.

    The epitome `E[f, i, c]` has a filter in each `K` rows of the summary.
    """
    options = {"patch": patch, "start": "random"}
    layer = SummaryConv1d(6, 7, 4, spec="nes", ratio=1.5, windows=3, grid=grid, options=options, dtype=torch.float64)
    rule, g = layer.offsets.double(), layer.geometry
    rule.routing.copy_(torch.rand(-(-7 // patch), 3) * (rule.range.choices - 1))
    phi, weight = layer.summary.detach(), layer.dense_weight().detach()
    assert rule.range.last + (patch - 1) * 4 <= g.limit
    for n in range(7):
        for m in range(6):
            start = float(rule.routing[n // patch, m // 2]) * grid + n % patch * 4
            low = math.floor(start / grid)
            share = start / grid - low
            for i in range(4):
                near = float(phi[low * grid + i, m % 2]), float(phi[min(low * grid + grid, g.limit) + i, m % 2])
                assert float(weight[n, m, i]) == pytest.approx((1 - share) * near[0] + share * near[1], abs=1e-5)


def test_patches_store_an_offset_each(tmp_path):
    torch.manual_seed(0)
    model, x = create("digitnet", num_classes=10).eval(), torch.randn(2, 1, 16, 16)
    autosample.convert_(model, "nes", ratio=3, options={"patch": 4})
    for layer in compressed_layers(model).values():
        layer.offsets.routing.copy_(torch.rand(layer.offsets.routing.shape) * (layer.offsets.range.choices - 1))
    autosample.harden_(model)
    expected = model(x)
    autosample.save(model, tmp_path)
    read = autosample.load(tmp_path)
    assert torch.equal(read(x), expected)
    for (name, layer), row in zip(compressed_layers(read).items(), autosample.report(read).rows[1:], strict=False):
        p = layer.offsets.patches
        assert p.count == 4
        assert row.name == name
        assert row.position_bits == p.whole.bits * p.whole.windows * (layer.geometry.sampled // 4)
    autosample.save(read, tmp_path / "again")
    assert torch.equal(autosample.load(tmp_path / "again")(x), expected)


def test_patches_are_smaller_where_the_summary_is_short():
    rule = NES(Lattice(9, 1, 10, 1, 4), NES.Options(patch=8), in_channels=2)
    assert rule.patches.count == 3
    assert rule.range.last == 2
    assert int(rule().max()) <= 10
    with pytest.raises(SpecError, match="patch must be a whole number of at least 1"):
        NES.Options(patch=0)
