"""Derivatives: gradcheck in float64, finite differences of offsets, and the straight-through formula as stated."""

import pytest
import torch

from autosample import Spec
from autosample.sampling import RULES, Lattice, plan_geometry, sample_weight
from autosample.sampling.windows import Placement, cut_windows

SMOOTH = [
    {"rule": "strided"},
    {"rule": "random"},
    {"rule": "assigned"},
    {"rule": "interpolated"},
    {"rule": "interpolated", "options": {"unit": "sigmoid"}},
    {"rule": "interpolated", "grid": 2},
    {"rule": "interpolated", "grid": 2, "options": {"unit": "sigmoid"}},
    {"rule": "interpolated", "grid": 2, "options": {"unit": "logit"}},
]


def _started(fields, **changes):
    """A spec whose learned windows begin at random."""
    learned = fields["rule"] not in ("strided", "random")
    options = {**({"start": "random"} if learned else {}), **fields.get("options", {})}
    return Spec(**{**fields, **changes, "options": options})


def _rule(chosen, geometry):
    return RULES[chosen.rule](Lattice.of(geometry), chosen.settings).double()


@pytest.mark.parametrize("layout", ["taps", "flat"])
@pytest.mark.parametrize("fields", SMOOTH, ids=str)
def test_gradcheck(fields, layout):
    chosen = _started(fields, layout=layout, ratio=2, windows=2)
    geometry = plan_geometry(chosen, (4, 4, 6))
    rule = _rule(chosen, geometry)
    parameters = list(rule.parameters())
    with torch.no_grad():
        for p in parameters:  # away from integers, where the interpolation has a kink
            p.add_(0.13 + 0.3 * torch.rand_like(p))
    summary = torch.randn(geometry.length, geometry.columns, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in rule.named_parameters()]

    def sampled(summary, *values):
        state = {f"rule.{name}": value for name, value in zip(names, values, strict=True)}
        placement = torch.func.functional_call(_Placed(rule), state, ())
        return sample_weight(summary, geometry, placement)

    assert torch.autograd.gradcheck(sampled, (summary, *parameters))


class _Placed(torch.nn.Module):
    """Gives `functional_call` the rule's differentiable placement."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self):
        return self.rule.placement()


def test_an_offset_moves_the_weight_by_the_difference_of_its_neighbours():
    """DFSNet: `∂filter/∂l = F[⌊l⌋+1 : ·] − F[⌊l⌋ : ·]`, checked by finite differences of a whole layer."""
    chosen = Spec(rule="interpolated", layout="flat", windows=1, ratio=2)
    geometry = plan_geometry(chosen, (3, 10))
    rule = _rule(chosen, geometry)
    rule.position.data += 0.4
    rule.position.data.clamp_(max=geometry.limit - 0.6)
    summary = torch.randn(geometry.length, 1, dtype=torch.float64)
    epsilon, low = 1e-6, rule.position.detach().floor().long()
    before = sample_weight(summary, geometry, rule.placement())
    rule.position.data += epsilon
    slope = (sample_weight(summary, geometry, rule.placement()) - before) / epsilon
    expected = sample_weight(summary, geometry, Placement(low + 1)) - sample_weight(summary, geometry, Placement(low))
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)


def test_straight_through_gradient_is_the_stated_formula():
    """`∂ℓ/∂logit[c] = p[c]/τ·(s[c] − Σ p·s)`, `s[c] = ⟨∂ℓ/∂W, window at c⟩`; the forward pass is hard."""
    chosen = Spec(rule="categorical", layout="taps", windows=2, ratio=2, grid=2,
                  options={"candidates": 5, "start": "random"})  # fmt: skip
    geometry = plan_geometry(chosen, (6, 4, 3))
    rule = _rule(chosen, geometry)
    rule.logits.data.normal_()
    rule.temperature.fill_(0.7)
    summary = torch.randn(geometry.length, geometry.columns, dtype=torch.float64, requires_grad=True)
    weight = sample_weight(summary, geometry, rule.placement())
    assert torch.equal(weight, sample_weight(summary, geometry, Placement(rule())))
    upstream = torch.randn_like(weight)
    weight.backward(upstream)
    p = torch.softmax(rule.logits.detach() / 0.7, -1)
    scores = torch.stack(
        [
            (geometry.to_windows(upstream) * cut_windows(summary.detach(), Placement(rule.kept("first") + 2 * c), 3))
            .sum((2, 3))
            for c in range(5)
        ],
        -1,
    )  # fmt: skip
    expected = p / 0.7 * (scores - (p * scores).sum(-1, keepdim=True))
    torch.testing.assert_close(rule.logits.grad, expected)
    hard = torch.zeros_like(summary)
    hard.requires_grad_()
    sample_weight(hard, geometry, Placement(rule())).backward(upstream)
    torch.testing.assert_close(summary.grad, hard.grad)


def test_offsets_reflect_at_the_ends_and_keep_their_gradient():
    rule = RULES["interpolated"](Lattice(1, 4, limit=10)).double()
    rule.position.data = torch.tensor([[-1.3, 11.2, 4.5, 20.5]], dtype=torch.float64)
    steps = rule.steps()
    torch.testing.assert_close(steps, torch.tensor([[1.3, 8.8, 4.5, 0.5]], dtype=torch.float64))
    steps.sum().backward()
    assert rule.position.grad.abs().tolist() == [[1.0, 1.0, 1.0, 1.0]]
    assert rule.position.grad.sign().tolist() == [[-1.0, -1.0, 1.0, 1.0]]


@pytest.mark.parametrize("fields", [f for f in SMOOTH if f["rule"] == "interpolated"], ids=str)
def test_offsets_start_to_move_at_once(fields):
    """Every start is an integer, the kink of the interpolation: there the one-sided derivative must be used."""
    from autosample.nn import SummaryConv1d

    layer = SummaryConv1d(8, 12, 9, spec=_started(fields, ratio=4), dtype=torch.float64)
    parameters = [layer.offsets.value]
    before = layer.offsets()
    optimizer = torch.optim.Adam([{"params": parameters, "lr": 0.6}, {"params": [layer.summary], "lr": 1e-2}])
    x, target = torch.randn(4, 8, 30, dtype=torch.float64), torch.randn(4, 12, 22, dtype=torch.float64)
    for step in range(10):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        if step == 0:
            assert all((p.grad != 0).float().mean() > 0.9 for p in parameters)
        optimizer.step()
    moved = (layer.offsets() != before).float().mean()
    assert moved > 0.3


def test_the_derivative_at_an_integer_is_the_one_sided_one():
    chosen = Spec(rule="interpolated", layout="flat", windows=1, ratio=2)
    geometry = plan_geometry(chosen, (3, 10))
    rule = _rule(chosen, geometry)
    rule.assign(torch.tensor([[2], [0], [4]]))
    summary, upstream = torch.randn(geometry.length, 1, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
    sample_weight(summary, geometry, rule.placement()).backward(upstream)
    windows = [sample_weight(summary, geometry, Placement(rule() + j)) for j in (0, 1)]
    expected = (upstream * (windows[1] - windows[0])).sum(1, keepdim=True)
    torch.testing.assert_close(rule.position.grad, expected)
