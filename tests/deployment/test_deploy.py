"""Deployed layers and small models against the hardened model in float64, for every plan."""

import copy
import io
import math

import pytest
import torch
from deploying import PLANS, check, error, expected, force, kinds, possible, scramble
from every_spec import PRESETS_WITH_WEIGHT
from torch import nn

from autosample import PRESETS, convert_, deploy, harden_
from autosample.deployment import whole
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryLayer, SummaryLinear
from autosample.nn.planning import layer_task
from autosample.reuse import planner
from autosample.reuse.layer import WindowConv
from autosample.system.timing import Timing

# summary class, arguments, options, shape of an input
LAYERS = {
    "1d": (SummaryConv1d, (8, 16, 8), {"stride": 2, "padding": 3}, (2, 8, 40)),
    "1d same": (SummaryConv1d, (8, 16, 6), {"padding": "same", "dilation": 2, "bias": False}, (2, 8, 30)),
    "1d even": (SummaryConv1d, (8, 16, (8,)), {"padding": "same"}, (2, 8, 30)),
    "1d circular": (SummaryConv1d, (6, 12, 5), {"padding": 2, "padding_mode": "circular"}, (1, 6, 30)),
    "2d": (SummaryConv2d, (8, 16, (3, 5)), {"stride": (2, 1), "padding": (1, 2)}, (2, 8, 9, 11)),
    "2d same": (SummaryConv2d, (8, 16, (4, 2)), {"padding": "same", "padding_mode": "reflect"}, (2, 8, 9, 11)),
    "2d replicate": (SummaryConv2d, (8, 16, 3), {"stride": 2, "padding": (2, 1), "padding_mode": "replicate"},
                     (2, 8, 9, 8)),
    "grouped": (SummaryConv2d, (8, 16, 3), {"groups": 2, "bias": False, "padding": 1}, (2, 8, 9, 9)),
    "dilated": (SummaryConv2d, (8, 16, 3), {"dilation": (2, 1)}, (2, 8, 9, 9)),
    "pointwise": (SummaryConv2d, (16, 32, 1), {}, (2, 16, 6, 6)),
    "linear": (SummaryLinear, (40, 24), {}, (2, 3, 40)),
}  # fmt: skip
OPTIONS = {
    "denser": {"denser": 2}, "shuffle": {"columns": "shuffle", "windows": 2},
    "table": {"columns": "table", "windows": 2}, "signs": {"signs": "random"},
    "all": {"signs": "random", "denser": 2, "columns": "shuffle", "windows": 2},
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path))


def build(kind, preset, **changes) -> tuple[SummaryLayer, torch.Tensor]:
    face, args, options, shape = LAYERS[kind]
    layer = scramble(face(*args, **options, spec=preset, ratio=4, **changes))
    return layer, torch.randn(shape)


def chain(preset="wsnet", *, bias=True, **changes) -> tuple[nn.Sequential, torch.Tensor]:
    """A layer with all that can be folded into it."""
    learned = {"options": {"afford": 10}} if preset == "autosample" else {}
    conv = SummaryConv1d(8, 16, 8, padding=2, bias=bias, spec=preset, ratio=4, **learned, **changes)
    model = nn.Sequential(conv, nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(3))
    return scramble(model), torch.randn(2, 8, 50)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("preset", ["dense", *PRESETS_WITH_WEIGHT])
@pytest.mark.every(3)
def test_layers(preset, kind, plan, monkeypatch):
    layer, x = build(kind, preset)
    force(monkeypatch, plan)
    assert kinds(check(layer, x)) == [possible(layer, plan)]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["1d", "2d same", "grouped"])
@pytest.mark.parametrize("preset", ["wsnet", "random", "autosample"])
@pytest.mark.every(3)
def test_options(preset, kind, option, plan, monkeypatch):
    layer, x = build(kind, preset, **OPTIONS[option])
    force(monkeypatch, plan)
    assert kinds(check(layer, x)) == [possible(layer, plan)]


def test_every_plan_is_possible_somewhere():
    assert {possible(build(kind, p)[0], plan) for p in PRESETS for kind in LAYERS for plan in PLANS} == set(PLANS)


@pytest.mark.parametrize("preset", PRESETS)
def test_plans_of_the_cost_model(preset):
    for kind in LAYERS:
        check(*build(kind, preset))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["1d", "1d circular", "2d same"])
def test_inputs_without_a_batch(kind, plan, monkeypatch):
    layer, x = build(kind, "wsnet")
    force(monkeypatch, plan)
    fast = check(layer, x[0])
    assert kinds(fast) == [possible(layer, plan)]
    assert error(fast(x), expected(layer, x)) < 1e-5


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("changes", [{}, {"signs": "random"}, {"denser": 2}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("preset", ["wsnet", "random", "fsnet"])
def test_norm_relu_and_pool_are_folded(preset, changes, bias, plan, monkeypatch):
    model, x = chain(preset, bias=bias, **changes)
    force(monkeypatch, plan)
    fast, plan = check(model, x), possible(model[0], plan)
    assert kinds(fast) == [plan]
    assert fast.deployment.rows[0].folded == (("norm",) if plan == "dense" else ("norm", "relu", "pool"))
    left = [nn.Conv1d, nn.Identity, nn.ReLU, nn.MaxPool1d] if plan == "dense" else [WindowConv, *[nn.Identity] * 3]
    assert [type(m) for m in fast] == left


class Block(nn.Module):
    """Two layers, a sum, and a norm before them."""

    def __init__(self, width=16):
        super().__init__()
        options = {"padding": 4, "spec": "wsnet", "ratio": 4}
        self.before = nn.BatchNorm1d(width)
        self.first, self.second = (SummaryConv1d(width, width, 8, **options) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        self.relu = nn.ReLU()

    def forward(self, x):
        y = self.relu(self.norms[0](self.first(self.before(x))))[..., 1:]
        return self.relu(x + self.norms[1](self.second(y))[..., 1:])


@pytest.mark.parametrize("plan", PLANS)
def test_blocks(plan, monkeypatch):
    force(monkeypatch, plan)
    model = nn.Sequential(nn.Conv1d(3, 16, 5), nn.BatchNorm1d(16), Block(), Block(), nn.AdaptiveAvgPool1d(1))
    fast = check(scramble(model), torch.randn(2, 3, 60))
    assert [row.name for row in fast.deployment.rows] == ["0", "2.first", "2.second", "3.first", "3.second"]
    assert all(row.folded == ("norm",) for row in fast.deployment.rows)  # the relu is called twice
    assert isinstance(fast[2].before, nn.BatchNorm1d)


class Shared(nn.Module):
    """One layer at two places, under two names."""

    def __init__(self):
        super().__init__()
        self.conv = self.again = SummaryConv1d(8, 8, 4, padding=2, spec="random", ratio=4)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.again(self.norm(self.conv(x))) + self.conv(x).mean()


@pytest.mark.parametrize("plan", PLANS)
def test_shared_layers(plan, monkeypatch):
    force(monkeypatch, plan)
    model = scramble(Shared())
    fast = check(model, torch.randn(2, 8, 30))
    assert fast.again is fast.conv
    assert kinds(fast) == [possible(model.conv, plan)]
    assert fast.deployment.rows[0].folded == ()


def test_models_without_summary_layers():
    fast = check(scramble(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                                        nn.Linear(8 * 36, 4), nn.BatchNorm1d(4))), torch.randn(2, 3, 8, 8))  # fmt: skip
    assert [(row.name, row.plan.reason, row.folded) for row in fast.deployment.rows] == [
        (name, "not converted", ("norm",)) for name in ("0", "4")
    ]
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in fast.modules())
    assert check(nn.Linear(3, 4), torch.randn(2, 3)).deployment.rows == ()


def test_hardened_models_and_deployed_ones():
    model, x = chain("autosample")
    before = expected(model, x)
    fast = check(harden_(model), x)
    assert error(fast(x), before) < 1e-5
    assert error(deploy(fast, x)(x), before) < 1e-5


def test_measured_plans_compute_the_same():
    for preset in ("wsnet", "autosample", "kmeans"):
        model, x = chain(preset)
        fast = deploy(model, x)
        assert error(fast(x), expected(model, x)) < 1e-5
        assert fast.deployment.error < 1e-5


def test_layers_stay_dense_where_that_is_faster_for_the_model_as_a_whole(monkeypatch):
    """Each layer by itself may gain what the changes of the memory format between them cost again."""
    model = scramble(nn.Sequential(SummaryConv2d(8, 16, 3, spec="wsnet", ratio=4), nn.BatchNorm2d(16), nn.ReLU()))
    x, found = torch.randn(2, 8, 9, 9), lambda *args, **options: dict.fromkeys(args[1], 0.1) | {"dense": 1.0}
    monkeypatch.setattr(planner, "_HOPELESS", math.inf)
    monkeypatch.setattr(planner, "remembered", found)
    for seconds in ([1.0, 1.0, 1.01], [1.0, 0.9, 1.1], [1.0, 1.1, 0.9]):
        taken = [Timing(t, t, t, 1) for t in seconds]
        monkeypatch.setattr(whole, "time_in_turn", lambda sides, taken=taken, **options: taken[: len(sides)])
        fast, dense = deploy(model, x), min(seconds) == 0.9
        assert error(fast(x), expected(model, x)) < 1e-5
        assert isinstance(fast[0], nn.Conv2d if dense else WindowConv)
        assert ("the whole model" in fast.deployment.rows[0].plan.reason) == dense


def test_the_model_is_left_as_it_was():
    model = scramble(nn.Sequential(*chain("autosample")[0], nn.Dropout(), nn.Conv1d(16, 4, 1))).train()
    model[3].eval()
    model[4].requires_grad_(False)

    def state():
        tensors = [(name, id(t), t.requires_grad, t.tolist()) for name, t in model.state_dict(keep_vars=True).items()]
        return tensors, [(m.training, type(m), len(m._forward_pre_hooks)) for m in model.modules()]

    before, x = state(), torch.randn(2, 8, 50)
    deploy(model, x)
    assert state() == before
    model(x).sum().backward()
    assert model[0].summary.grad is not None


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("changes", [{}, {"columns": "shuffle"}], ids=str)
def test_states_go_from_one_deployed_model_to_another(changes, plan, monkeypatch):
    """Another seed has other positions and columns: these have to come with the state."""
    force(monkeypatch, plan)
    model, x = chain("random", windows=2, **changes)
    others = (chain("random", windows=2, seed=seed, **changes)[0] for seed in range(1, 99))
    other = next(o for o in others if layer_task(o[0]).segments == layer_task(model[0]).segments)
    fast, target = check(model, x), check(other, x)
    assert error(target(x), expected(model, x)) > 0.1
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for assign in (False, True):
        twin = copy.deepcopy(target)
        twin.load_state_dict(state, strict=True, assign=assign)
        assert torch.equal(twin(x), fast(x))
    assert error(target(x), expected(other, x)) < 1e-5  # its own tensors
    for twin in (copy.deepcopy(fast), _pickled(fast)):
        assert torch.equal(twin(x), fast(x))
        assert kinds(twin) == kinds(fast)


def _pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("plan", ["reuse", "fused"])
def test_positions_in_order_are_no_constant(plan, monkeypatch):
    """A plan that takes windows as they come must notice when others are loaded."""
    force(monkeypatch, plan)
    model = SummaryConv1d(8, 16, 8, spec="wsnet", options={"spatial": 8})
    x = torch.randn(2, 8, 30)
    fast = check(model, x)
    assert layer_task(model).in_order
    state = fast.state_dict() | {"rows": fast.rows.flip(0)}
    wanted = (fast(x) - fast.bias[:, None]).flip(1)
    fast.load_state_dict(state)
    torch.testing.assert_close(fast(x) - fast.bias[:, None], wanted)


def test_the_report(monkeypatch):
    model = scramble(nn.Sequential(
        SummaryConv1d(8, 16, 8, spec="wsnet", ratio=4), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 8, 3),
        nn.BatchNorm1d(8), nn.Flatten(), SummaryLinear(8 * 41, 4, spec="wsnet", ratio=4),
    ))  # fmt: skip
    force(monkeypatch, "reuse")
    rows = check(model, torch.randn(2, 8, 50)).deployment.rows
    assert [(row.name, row.plan.kind) for row in rows] == [("0", "reuse"), ("3", "dense"), ("6", "dense")]
    assert [row.plan.reason for row in rows] == ["10.0x predicted", "not converted", "no taps to slide along"]
    assert rows[0].plan.saving > 2
    text = str(check(model, torch.randn(2, 8, 50)).deployment)
    assert all(word in text for word in ("reuse", "dense", "norm relu", "10.0x predicted", "no taps to slide along"))


def test_converted_models_of_several_kinds():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 64), nn.Linear(64, 5),
    )  # fmt: skip
    for preset in PRESETS:
        twin = copy.deepcopy(model)
        convert_(twin, preset, ratio=4)
        assert (preset == "dense") != any(isinstance(m, SummaryLayer) for m in twin.modules())
        fast = check(scramble(twin), torch.randn(2, 3, 12, 12))
        assert all(row.plan.reason for row in fast.deployment.rows)
