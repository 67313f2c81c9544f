"""Which plan is chosen, from predictions and from measurements, and the file that keeps the latter."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deploying import all_variants, check, expected, kinds, scramble, set_costs
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autosample import deploy
from autosample.deployment import layers, whole
from autosample.nn import SummaryConv1d, SummaryConv2d
from autosample.nn.planning import layer_frame, layer_task
from autosample.reuse import fused, planner, timings
from autosample.reuse.plans import PLANS, dense

KINDS = ("dense", *PLANS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of measurements, in which every plan is worth one."""
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(planner, "_HOPELESS", 1e9)
    return tmp_path / "cache" / "plans.json"


class Clock:
    """Stands in for `time_in_turn` and notes what it was to time; `times` are the medians."""

    def __init__(self, *times):
        self.times, self.calls = times or (1.0, 0.5, 0.5, 0.5), 0

    def __call__(self, sides, **options):
        self.calls += 1
        for side in sides:
            side()
        return [SimpleNamespace(median=t) for t in self.times[: len(sides)]]


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(planner, "time_in_turn", clock)
    of_models = Clock(0.1, 1.0, 1.0, 1.0)  # the planned model is faster than its dense twin
    monkeypatch.setattr(whole, "time_in_turn", of_models)
    # a layer that stays dense may run in the kernel: another choice, after this one
    monkeypatch.setattr(layers, "is_slow", lambda *_: False)
    return clock


def conv(width=8, filters=16, kernel=8, **options) -> SummaryConv1d:
    return SummaryConv1d(width, filters, kernel, **{"spec": "wsnet", "ratio": 4} | options).eval()


def signal(*shape) -> torch.Tensor:
    return torch.randn(*(shape or (2, 8, 50)))


def cost_of(kind):
    return dense.cost if kind == "dense" else PLANS[kind].cost


def ways(layer):
    return all_variants(layer_task(layer)), layer_frame(layer)[0]


# --- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_more_work_costs_more(kind):
    def cost(shape=(2, 8, 50), mixed=0, **options):
        tasks, frame = ways(conv(**{"width": 8, "filters": 16} | options))
        return cost_of(kind)(tasks.get(kind, tasks["reuse"]), frame, shape, mixed)

    assert cost() < cost((3, 8, 50)) < cost((3, 8, 51)) < cost((30, 8, 500))
    assert cost() < cost(width=16, shape=(2, 16, 50))
    assert cost(stride=2) < cost()
    assert cost(spec="random") < cost(spec="random", filters=64)
    assert cost((0, 8, 50)) > 0


OPTIONS = [{}, {"stride": 2}, {"groups": 2}, {"padding": 3}, {"spec": "random"}, {"spec": "kmeans"}, {"denser": 2},
           {"dilation": 2}, {"stride": 3, "spec": "random"}]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_multiply_adds_are_those_of_the_operators(options, monkeypatch):
    layer, x = conv(**options), signal()
    tasks, frame = ways(layer)
    for kind in set(tasks) - {"fused"}:
        _check_multiply_adds(layer, x, tasks[kind], frame, kind, monkeypatch)


def _check_multiply_adds(layer, x, task, frame, kind, monkeypatch):
    set_costs(monkeypatch, {kind: 0.1}, others=1.0)
    fast, plain_fast = check(layer, x), check(layer, x, fuse=False)
    mixed = 0 if layer.densify is None else len(layer.densify)
    found, plain = PLANS[kind].macs(task, frame, (50,), mixed), dense.macs(task, frame, (50,), mixed)
    assert fast.deployment.rows[0].plan.saving == plain_fast.deployment.rows[0].plan.saving == plain / found
    counted = count_multiply_adds(fast, x) / len(x)
    mixing = mixed * task.filters * frame.out((50,))[0]
    # the operators make a few more segments, beyond the last window
    schedule, (out,), (stride,) = task.schedule, frame.out((50,)), frame.stride
    (rate,), (reach,) = schedule.rate(frame.stride), schedule.reach
    more = (reach // rate + (out - 1) * stride // rate + 1) / (out * stride // rate)
    assert counted - mixing == pytest.approx((found - mixing) * more)
    set_costs(monkeypatch, {}, others=1.0)
    assert count_multiply_adds(check(layer, x), x) / len(x) == plain


def count_multiply_adds(module, x) -> float:
    """Of the convolutions, and of the product that mixes filters; selections are products only in form."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    counts = counter.get_flop_counts()["Global"]
    mixes = getattr(module, "mix", None) is not None
    return sum(n for op, n in counts.items() if mixes or "convolution" in str(op)) / 2


@pytest.mark.parametrize("cost", [0.2, 0.94, 0.96, 1.0, 9.0])
def test_predictions_are_followed(cost, clock, monkeypatch):
    set_costs(monkeypatch, {"dense": 10.0, "reuse": 10 * cost}, others=1e3)
    fast = check(conv(), signal())
    assert kinds(fast) == ["reuse" if cost < 0.95 else "dense"]
    assert "predicted" in fast.deployment.rows[0].plan.reason
    assert clock.calls == 0


def test_filters_that_are_mixed_are_not_those_of_the_dense_layer():
    plain, denser = (ways(conv(width=64, filters=64, denser=d, ratio=8)) for d in (1, 2))
    shape = (2, 64, 500)
    cost = dense.cost(plain[0]["reuse"], plain[1], shape)
    assert dense.cost(denser[0]["reuse"], denser[1], shape, mixed=64) == cost
    for kind in ("reuse", "fused"):
        cost = [PLANS[kind].cost(denser[0][kind], denser[1], shape, mixed) for mixed in (0, 64)]
        assert cost[1] - cost[0] > 0.9 * 2 * 64 * 128 * (500 - 7)


# --- measurements ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_no_plan_is_taken_that_is_slower_than_dense(seed, clock):
    """The fastest, and only if it beats dense by 5 %."""
    torch.manual_seed(seed)
    clock.times = tuple((1 + 0.2 * torch.randn(4)).abs().tolist())
    layer = conv(options={"spatial": 4, "channel": 2}, ratio=None)
    worth = list(ways(layer)[0])
    times = dict(zip(["dense", *worth], clock.times, strict=False))
    plan = deploy(layer, signal()).deployment.rows[0].plan
    best = min(worth, key=lambda kind: times[kind])
    assert plan.kind == (best if times[best] <= 0.95 * times["dense"] else "dense")
    assert (plan.seconds, plan.dense_seconds) == (times[best], times["dense"])
    gain = times["dense"] / times[best]
    assert plan.reason.endswith(f"measured {gain:.2f}x" if plan.kind == "dense" else f"measured {gain:.1f}x")
    assert clock.calls == 1


def test_hopeless_plans_are_not_measured(clock, monkeypatch):
    monkeypatch.setattr(planner, "_HOPELESS", 3.0)
    for costs, sides in (({"reuse": 2.9}, 1), ({"reuse": 0.5, "fold": 2.9}, 1), ({}, 0)):
        set_costs(monkeypatch, {"dense": 1.0, **costs}, others=3.1)
        clock.calls = 0
        fast = deploy(conv(), signal(1, 8, 40 + len(costs)))
        assert clock.calls == sides
        assert kinds(fast) == (["dense"] if not costs else kinds(fast))
    assert "predicted at 0.32x" in fast.deployment.rows[0].plan.reason


def test_what_is_timed_is_what_is_deployed(clock, monkeypatch):
    """With norm, ReLU and pool on both sides, on an input of the example's shape."""
    model = scramble(nn.Sequential(conv(), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2)))
    x, seen = signal(3, 8, 60), []

    def in_turn(sides, **options):
        seen.extend(side.__defaults__[0] for side in sides)
        return [SimpleNamespace(median=t) for t in (1.0, 0.2, 0.5, 0.5)[: len(sides)]]

    monkeypatch.setattr(planner, "time_in_turn", in_turn)
    fast = deploy(model, x)
    assert len(seen) >= 3
    for module in seen:
        torch.testing.assert_close(module(x).double(), expected(model, x), rtol=1e-4, atol=1e-5)
    assert fast[0] is seen[1]


def test_measurements_are_made_once(clock, cache):
    first = deploy(conv(), signal())
    assert clock.calls == 1
    kept = json.loads(cache.read_text())
    assert len(kept) == 1
    clock.times = (1.0, 2.0, 2.0, 2.0)
    second = deploy(conv(), signal())
    assert clock.calls == 1
    assert second.deployment.rows == first.deployment.rows
    assert json.loads(cache.read_text()) == kept
    assert [path.name for path in cache.parent.iterdir()] == ["plans.json"]


def _threads():
    torch.set_num_threads(torch.get_num_threads() + 1)


def _of(*modules):
    return nn.Sequential(*modules).eval()


CHANGES = {
    "threads": lambda m: (_threads(), m),
    "kernel": lambda m: (m.setattr(fused, "version", lambda: "another"), m),
    "torch": lambda m: (m.setattr(torch, "__version__", "9.9"), m),
    "processor": lambda m: (m.setattr(timings, "processor", lambda: "another"), m),
}
OTHERS = {
    "batch": (lambda: conv(), (3, 8, 50)),
    "length": (lambda: conv(), (2, 8, 51)),
    "type": (lambda: conv().bfloat16(), (2, 8, 50)),
    "stride": (lambda: conv(stride=2), (2, 8, 50)),
    "padding": (lambda: conv(padding=2), (2, 8, 50)),
    "reflection": (lambda: conv(padding=2, padding_mode="reflect"), (2, 8, 50)),
    "dilation": (lambda: conv(dilation=2), (2, 8, 50)),
    "ratio": (lambda: conv(ratio=8), (2, 8, 50)),
    "columns": (lambda: conv(columns="shuffle"), (2, 8, 50)),
    "denser": (lambda: conv(filters=8, denser=2), (2, 8, 50)),
    "signs": (lambda: conv(signs="random"), (2, 8, 50)),
    "no bias": (lambda: conv(bias=False), (2, 8, 50)),
    "relu": (lambda: _of(conv(), nn.ReLU()), (2, 8, 50)),
    "pool": (lambda: _of(conv(), nn.MaxPool1d(2)), (2, 8, 50)),
    "wider pool": (lambda: _of(conv(), nn.MaxPool1d(4)), (2, 8, 50)),
    "image": (lambda: SummaryConv2d(8, 16, (1, 8), spec="wsnet", ratio=4), (2, 8, 1, 50)),
}


def test_measurements_are_kept_apart_by_all_they_depend_on(clock, cache):
    for count, (make, shape) in enumerate([(conv, (2, 8, 50)), *OTHERS.values()], 1):
        model = make()
        for _ in range(2):
            deploy(model, signal(*shape).to(next(model.parameters()).dtype))
            assert clock.calls == count
    assert len(json.loads(cache.read_text())) == len(OTHERS) + 1


@pytest.mark.parametrize("change", CHANGES)
def test_measurements_belong_to_a_machine(change, clock, monkeypatch):
    threads = torch.get_num_threads()
    deploy(conv(), signal())
    try:
        CHANGES[change](monkeypatch)
        for _ in range(2):
            deploy(conv(), signal())
            assert clock.calls == 2
    finally:
        torch.set_num_threads(threads)


# --- the file --------------------------------------------------------------------------------------------------------

BROKEN = [b"", b"{", b"[]", b"3", b"null", b'{"a": ', b"\xff\xfe\x00", b'{"key": null}', b'{"key": []}', b'{"key": {}}']
VALUES = ["fast", None, -1.0, 0.0, float("nan"), True, [1.0]]


@pytest.mark.parametrize("content", BROKEN, ids=str)
def test_broken_files_are_ignored(content, cache):
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert timings.remembered("key", ["a"], lambda: {"a": 1.0}) == {"a": 1.0}
    assert json.loads(cache.read_text())["key"] == {"a": 1.0}


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_broken_measurements_are_ignored(value, cache):
    cache.parent.mkdir()
    cache.write_text(json.dumps({"key": {"a": value, "b": 1.0}, "other": {"c": 2.0}}))
    assert timings.remembered("key", ["a", "b"], lambda: {"a": 3.0, "b": 4.0}) == {"a": 3.0, "b": 4.0}
    assert json.loads(cache.read_text()) == {"key": {"a": 3.0, "b": 4.0}, "other": {"c": 2.0}}


def test_files_are_replaced_as_a_whole(cache, monkeypatch):
    timings.remembered("key", ["a"], lambda: {"a": 1.0})
    before = cache.read_text()
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("disk is full")))
        assert timings.remembered("other", ["a"], lambda: {"a": 2.0}) == {"a": 2.0}
    assert cache.read_text() == before
    assert list(cache.parent.iterdir()) == [cache]

    def measure():  # another process keeps something meanwhile
        timings.remembered("third", ["a"], lambda: {"a": 3.0})
        return {"a": 2.0}

    timings.remembered("other", ["a"], measure)
    assert set(json.loads(cache.read_text())) == {"key", "other", "third"}


@pytest.mark.parametrize("folder", ["/proc/nowhere", "a file", "a folder"])
def test_folders_that_cannot_be_written(folder, tmp_path, clock, monkeypatch):
    (tmp_path / "a file").touch()
    (tmp_path / "a folder" / "plans.json").mkdir(parents=True)
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path / folder))
    for _ in range(2):
        assert kinds(deploy(conv(), signal())) != ["dense"]
    assert clock.calls == 2
    assert [path.name for path in (tmp_path / "a folder").iterdir()] == ["plans.json"]


def test_where_the_file_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    for folder, found in (("/tmp/mine", "/tmp/mine"), ("~/mine", "/home/someone/mine"), ("", "/var/cache/autosample")):
        monkeypatch.setenv("AUTOSAMPLE_CACHE", folder)
        assert timings.cache_file() == Path(found, "plans.json")
    for home in ("", None):
        monkeypatch.setenv("XDG_CACHE_HOME", home) if home is not None else monkeypatch.delenv("XDG_CACHE_HOME")
        assert timings.cache_file() == Path("/home/someone/.cache/autosample/plans.json")
