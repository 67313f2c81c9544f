import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from autosample.errors import ConfigError
from autosample.experiments.bench import measure as measuring
from autosample.experiments.bench import sides as building
from autosample.experiments.bench.cases import SUITES, Workload, altered, chosen, conv, own, suite, wsnet
from autosample.experiments.bench.measure import measure, measure_sides
from autosample.experiments.bench.memory import peak_memory
from autosample.experiments.bench.sides import Built, Side, build
from autosample.model.convert import convert_layers_
from autosample.nn import compressed_layers
from autosample.reuse import fused, planner
from autosample.reuse.plans import segments
from autosample.sampling.spec import spec
from autosample.system.timing import Ratio, Timing, ratio, time_in_turn

TINY = Workload(name="tiny", kind="layer", layer=conv(8, 16, 8), input=(8, 64), spec=wsnet(4, 2), targets=(2, 1.5))
IMAGE = replace(TINY, name="image", layer=conv(8, 8, 3, padding=1), input=(8, 6, 6), spec=wsnet(3, 2))
QUICK = {"compiled": False, "memory": False, "rounds": 3}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch, tmp_path):
    """Plans by the cost model instead of by measurement, nothing in the user's cache, no kernel to be built."""
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fused, "why_not", lambda: "not in these tests")
    monkeypatch.setattr(planner, "_BUDGET", 0.0)


def sides_of(work, **modules):
    """Sides with the workload's input and modules of one's own."""
    x = torch.randn(2, *work.input)
    return [Side(name.replace("_", " "), module, (x,)) for name, module in modules.items()]


class Slow(nn.Module):
    """A convolution that takes its time."""

    def __init__(self, inner, times):
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x):
        for _ in range(self.times):
            y = self.inner(x)
        return y


# --- measuring -------------------------------------------------------------------------------------------------------


def test_the_ratio_is_taken_against_the_fastest_dense_side():
    inner = nn.Conv1d(8, 256, 9)
    modules = {"dense": Slow(inner, 40), "dense_other": Slow(inner, 10), "fast": Slow(inner, 1)}
    row = measure_sides(TINY, Built(sides_of(TINY, **modules)), threads=1, tolerance=1e-4, rounds=9)
    assert row.baseline == "dense other"
    assert list(row.ratios) == ["fast"]
    expected = row.sides["dense other"].median / row.sides["fast"].median
    assert row.ratios["fast"].median == pytest.approx(expected, rel=0.5)
    assert row.ratios["fast"].median < row.sides["dense"].median / row.sides["fast"].median
    assert row.ratios["fast"].low <= row.ratios["fast"].median <= row.ratios["fast"].high


@pytest.mark.parametrize("work", [TINY, IMAGE], ids=lambda work: work.name)
def test_a_layer_has_all_its_sides_and_they_agree(work):
    row = measure(work, **QUICK)
    assert not row.error
    assert {"dense", "materialize", "fold", "reuse", "deployed"} <= set(row.sides)
    assert ("dense channels_last" in row.sides) == (work is IMAGE)
    assert row.notes == ("no fused kernel: not in these tests",)
    assert set(row.ratios) == {name for name in row.sides if not name.startswith("dense")}
    assert all(side.difference < 1e-5 and side.low <= side.median <= side.high for side in row.sides.values())
    assert row.plan[0]["kind"] in ("dense", "reuse", "fold")


def test_the_fused_kernel_is_a_side_where_there_is_one(monkeypatch):
    monkeypatch.undo()
    if not fused.available():
        pytest.skip(fused.why_not())
    monkeypatch.setattr(planner, "_BUDGET", 0.0)
    row = measure(TINY, **QUICK)
    assert not row.error
    assert "fused" in row.ratios
    assert not row.notes


def test_threads_are_set_for_the_time_of_a_measurement(monkeypatch):
    seen = []
    monkeypatch.setattr(measuring, "build", lambda *args, **kwargs: seen.append(torch.get_num_threads()) or Built())
    before = torch.get_num_threads()
    measure(TINY, threads=3, **QUICK)
    assert seen == [3]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_wrong_outputs_are_an_error_instead_of_a_ratio(monkeypatch, error):
    class Wrong(segments.WindowConv):
        def forward(self, input):
            return super().forward(input) + error

    monkeypatch.setattr(segments, "WindowConv", Wrong)
    row = measure(TINY, **QUICK)
    assert "reuse: outputs differ" in row.error
    assert (row.verdict, row.best, dict(row.ratios)) == ("error", "", {})
    assert "reuse" not in row.sides


def test_a_deployment_that_fails_is_an_error_of_its_row(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no\nsuch thing")

    monkeypatch.setattr(building, "deploy", broken)
    row = measure(TINY, **QUICK)
    assert row.error == "deploy: RuntimeError: no such thing"
    assert row.verdict == "error"
    assert "materialize" in row.sides


def test_dense_variants_and_compiled_sides_may_fail(monkeypatch):
    def cannot(module):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", cannot)

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("not today")

    inner = nn.Conv1d(8, 16, 9)
    sides = sides_of(TINY, dense=inner, dense_other=Broken(), dense_wrong=nn.Conv1d(8, 16, 9), fast=inner)
    sides.append(Side("deployed compiled", inner, sides[0].args, compiled=True))
    row = measure_sides(TINY, Built(sides), threads=1, tolerance=1e-4, rounds=3)
    assert not row.error
    assert list(row.sides) == ["dense", "fast"]
    assert [note.partition(":")[0] for note in row.notes] == ["dense other", "dense wrong", "deployed compiled"]


def test_nothing_is_measured_where_dense_torch_fails():
    row = measure_sides(TINY, Built(sides_of(TINY, dense=nn.Conv1d(3, 3, 3))), threads=1, tolerance=1e-4, rounds=3)
    assert row.error.startswith("dense: RuntimeError")
    assert (dict(row.sides), row.baseline, row.verdict) == ({}, "", "error")


# --- workloads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUITES)
def test_suites(name):
    rows = suite(name)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert Workload.from_dict(json.loads(json.dumps(row.to_dict()))) == row
        assert spec(dict(row.spec))
        assert row.layer or row.model


def test_targets_by_threads_rows_by_name_and_batches():
    assert [TINY.target(threads) for threads in (1, 2, 8)] == [2, 1.5, 1.5]
    assert replace(TINY, targets=()).target(1) is None
    assert chosen([TINY, IMAGE], ["image"]) == [IMAGE]
    assert altered(TINY, None, True) == TINY
    assert altered(TINY, 3, True) == replace(TINY, batch=3, targets=(), aim=None)
    assert altered(TINY, None, False) == replace(TINY, targets=(), aim=None)
    with pytest.raises(ConfigError, match=r'"imag".*did you mean "image"'):
        chosen([TINY, IMAGE], ["imag"])
    with pytest.raises(ConfigError, match=r'"layer".*did you mean "layers"'):
        suite("layer")


def test_windows_are_as_far_apart_as_the_names_say():
    apart = {"conv1d-s4c4": 4, "conv1d-s1c8": 1, "conv1d-wide-s2c8": 2, "conv1d-stride2-s2c4": 2, "conv2d-s3c2": 3}
    for row in suite("layers"):
        if row.name in apart:
            layer = (nn.Conv1d if len(row.input) == 2 else nn.Conv2d)(**row.layer, bias=False)
            convert_layers_(layer, dict(row.spec))
            offsets, *_ = layer.windows_on_summary()
            assert (offsets[1, 0] - offsets[0, 0]).item() == apart[row.name]


def test_models_are_compared_with_dense_ones_of_the_same_weights():
    work = own("test_resnet", "wsnet", 4, (3, 32, 32))[0]
    row = measure(work, **QUICK)
    assert not row.error
    dense = [name for name in row.sides if name.startswith("dense")]
    assert dense == ["dense", "dense channels_last", "dense folded", "dense folded channels_last"]
    assert list(row.ratios) == ["deployed"]
    assert any("norm" in layer["folded"] for layer in row.plan)


def test_nothing_in_a_model_is_multiplied_by_zero():
    built = build(own("test_resnet", "wsnet", 4, (3, 32, 32))[0], device=torch.device("cpu"), dtype=torch.float32,
                  compiled=False)  # fmt: skip
    model = built.sides[0].module
    assert not compressed_layers(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all((norm.weight.abs() > 0).all() and norm.running_var.std() > 0 for norm in norms)


def test_a_training_step_has_a_side_for_each_execution():
    work = Workload(name="step", kind="training", model="test_resnet", input=(3, 32, 32), batch=4, spec=wsnet(3, 2))
    row = measure(work, **QUICK)
    assert not row.error
    assert list(row.sides) == ["dense", "auto", "materialize"]
    assert set(row.ratios) == {"auto", "materialize"}
    built = build(work, device=torch.device("cpu"), dtype=torch.float32, compiled=True)
    assert [side.name for side in built.sides if side.compiled] == ["dense compiled"]
    assert built.sides[-1].module is not built.sides[0].module  # steps of one would change the other
    step = built.sides[1].start()
    before = {name: p.detach().clone() for name, p in built.sides[1].module.named_parameters()}
    with torch.no_grad():
        step()
    assert any((p != before[name]).any() for name, p in built.sides[1].module.named_parameters() if "summary" in name)


def test_which_sides_are_compiled():
    model = own("test_resnet", "wsnet", 4, (3, 32, 32))[0]
    options = {"device": torch.device("cpu"), "dtype": torch.float32, "compiled": True}

    def names(work):
        return [side.name for side in build(work, **options).sides if side.compiled]

    every = ["dense", "dense channels_last", "dense folded", "dense folded channels_last", "deployed"]
    assert names(model) == [f"{name} compiled" for name in every]
    assert names(replace(model, every=False)) == [f"{name} compiled" for name in every[2:]]
    assert names(IMAGE) == ["dense compiled", "dense channels_last compiled"]
    assert names(replace(TINY, sides=("dense", "reuse"))) == []
    assert [s.name for s in build(replace(TINY, sides=("dense", "reuse")), **options).sides] == ["dense", "reuse"]


# --- timing ----------------------------------------------------------------------------------------------------------


def test_timing_is_fair_and_ratios_are_taken_round_by_round():
    order = []
    timings = time_in_turn([lambda: order.append(0), lambda: order.append(1), lambda: order.append(2)], rounds=20)
    assert order[:6] == [0, 0, 1, 1, 2, 2]
    rounds = [tuple(order[i : i + 3]) for i in range(6, len(order), 3)]
    assert all(sorted(r) == [0, 1, 2] for r in rounds)
    assert len(set(rounds)) > 3
    assert [(t.rounds, len(t.times)) for t in timings] == [(20, 20)] * 3
    slow, fast = (Timing(0, 0, 0, 3, times) for times in ((2.0, 30.0, 4.0), (1.0, 10.0, 1.0)))
    assert ratio(slow, fast) == Ratio(3.0, 2.5, 3.5)
    assert len(time_in_turn([lambda: None], rounds=9, budget=0.0)[0].times) == 3


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_peak_memory_counts_what_a_call_needs():
    two = nn.Sequential(nn.Conv1d(1, 64, 1), nn.Sigmoid())  # 16 MiB of output each
    peak, why = peak_memory(Side("two", two, (torch.randn(1, 1, 2**16),)), 1)
    if peak is None:
        pytest.skip(why)
    assert 0.95 * 2**25 <= peak < 1.5 * 2**25


def test_peak_memory_of_what_cannot_be_sent():
    module = nn.Identity()
    module.hook = lambda: None
    assert peak_memory(Side("odd", module, (torch.zeros(1),)), 1)[0] is None
