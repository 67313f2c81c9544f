"""Another kind of plan is one class and one row of `PLANS`: everything else finds it there."""

import pytest
import torch
from deploying import check, error, expected, kinds, scramble
from torch import Tensor, nn

from autosample import deploy, report
from autosample.nn import SummaryConv1d
from autosample.reuse.deployed import Deployed
from autosample.reuse.plans import PLANS, PlanKind, segments


class ToyConv(Deployed):
    """Computes as `reuse` does, and counts its calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    @property
    def dense_weights(self) -> int:
        return 1200

    @property
    def stored_weights(self) -> int:
        return 100

    @property
    def other_numbers(self) -> int:
        return 16

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(input)


class Toy(PlanKind):
    def usable(self, task, device, dtype, fuse):
        return task if task.fold else None

    def cost(self, task, frame, shape, mixed=0):
        return 1.0

    def build(self, task, frame, operands):
        return ToyConv(segments.Segments().build(task, frame, operands))


@pytest.fixture
def toy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path))
    monkeypatch.setitem(PLANS, "toy", Toy())


def model(**options) -> nn.Module:
    layer = SummaryConv1d(8, 16, 8, **{"spec": "wsnet", "ratio": 4} | options)
    return scramble(nn.Sequential(layer, nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2))).eval()


def test_deploy_takes_it(toy):
    x = torch.randn(2, 8, 50)
    fast = check(model(options={"spatial": 4, "channel": 2}, ratio=None), x)
    assert kinds(fast) == ["toy"]
    assert isinstance(fast[0], ToyConv)
    assert fast[0].calls > 0
    assert "toy" in str(fast.deployment)
    assert not any(isinstance(m, nn.ReLU | nn.MaxPool1d) for m in fast.modules())


@pytest.mark.parametrize("best", ["toy", "reuse"])
def test_a_measurement_decides_about_it(toy, best, monkeypatch):
    def taken(key, names, measure):
        return {name: 0.5 if name == best else 1.0 for name in names}

    monkeypatch.setattr("autosample.reuse.planner._HOPELESS", 1e9)
    monkeypatch.setattr("autosample.reuse.planner.remembered", taken)
    monkeypatch.setattr("autosample.deployment.deploy.fastest", lambda ways, *args: ways[0])
    x, net = torch.randn(2, 8, 50), model(options={"spatial": 4, "channel": 2}, ratio=None)
    fast = deploy(net, x)
    assert kinds(fast) == [best]
    assert error(fast(x), expected(net, x)) < 1e-5


def test_where_it_cannot_be_used_others_are_taken(toy):
    fast = check(model(spec="random"), torch.randn(2, 8, 50))
    assert kinds(fast) != ["toy"]


def test_the_report_knows_its_modules(toy):
    fast = check(model(options={"spatial": 4, "channel": 2}, ratio=None), torch.randn(2, 8, 50))
    row = report(fast).rows[0]
    assert (row.method, row.ratio, row.dense_params, row.plan) == ("deployed", 12.0, 1216, "toy")
