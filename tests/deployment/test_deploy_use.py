"""What can be done with a deployed model: other inputs and types, `torch.export`, `torch.compile`, no kernel at all."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deploying import PLANS, check, error, expected, force, kinds, possible, scramble, set_costs
from torch import nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autosample import deploy
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryLayer, execution

# a bit more than float32 rounding, relative to the largest output
_CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path))


@pytest.fixture(params=PLANS)
def plan(request, monkeypatch) -> str:
    force(monkeypatch, request.param)
    return request.param


def signals(preset="wsnet", bias=True, **changes) -> tuple[nn.Sequential, torch.Tensor]:
    conv = SummaryConv1d(8, 32, 8, bias=bias, spec=preset, ratio=4, **changes)
    model = nn.Sequential(conv, nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(2))
    return scramble(model), torch.randn(2, 8, 50)


def images(preset="random", **options) -> tuple[nn.Sequential, torch.Tensor]:
    conv = SummaryConv2d(8, 32, 3, **options, spec=preset, windows=4, ratio=4)
    return scramble(nn.Sequential(conv, nn.BatchNorm2d(32), nn.ReLU())), torch.randn(2, 8, 9, 9)


MODELS = {
    "signals": signals,
    "denser": lambda: signals(denser=2),
    "no bias": lambda: signals("random", bias=False, signs="random"),
    "images": images,
    "reflected": lambda: images(padding=1, padding_mode="reflect"),
    "a layer": lambda: (images(padding=1)[0][0], torch.randn(2, 8, 9, 9)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.every(3)
def test_inputs_of_other_sizes(name, plan):
    model, x = MODELS[name]()
    fast = check(model, x)
    for batch, *size in ((1, 30, 12), (5, 301, 40), (3, 9, 3)):
        y = torch.randn(batch, 8, *size[: x.dim() - 2])
        assert error(fast(y), expected(model, y)) < 1e-5
    assert fast(x[:0]).shape == model.eval()(x[:0]).shape


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.every(3, 1)
def test_inputs_in_other_orders(name, plan):
    model, x = MODELS[name]()
    fast, wanted = check(model, x), expected(model, x)
    last = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.transpose(1, 2).contiguous().mT
    wide = torch.stack([x, x], -1)[..., 0]
    assert not last.is_contiguous()
    assert not wide.is_contiguous()
    assert error(fast(last), wanted) < 1e-5
    assert error(fast(wide), wanted) < 1e-5
    assert error(fast(input=x), wanted) < 1e-5


def test_inputs_that_torch_refuses(plan):
    for model, x in (signals(), images()):
        fast, model = check(model, x), model.eval()
        small = (x[..., :3], x[..., :8]) if x.dim() == 3 else (x[..., :2], x[:, :, :2])  # 8: too short for the pool
        for wrong in (x[:, :7], torch.cat([x, x], 1), *small, x[None], x[0, 0]):
            for module in (model, fast):
                with pytest.raises((RuntimeError, ValueError)):
                    module(wrong)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.every(3)
def test_gradients_of_the_input(name, plan):
    model, x = MODELS[name]()
    fast = check(model, x)
    x, y = x.requires_grad_(), x.detach().double().requires_grad_()
    twin = copy.deepcopy(model).eval().double()
    with execution("materialize"):
        wanted = twin(y)
    got = fast(x)
    assert error(got.detach(), wanted.detach()) < 1e-5
    cotangent = torch.randn_like(wanted)
    (one,), (other,) = torch.autograd.grad(got, x, cotangent.float()), torch.autograd.grad(wanted, y, cotangent)
    assert error(one, other) < 1e-5


@pytest.mark.parametrize("dtype", _CLOSE)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.every(3)
def test_models_of_other_types(name, dtype, plan):
    model, x = MODELS[name]()
    model, x = model.to(dtype), x.to(dtype)
    fast = check(model, x, tolerance=_CLOSE[dtype])
    runs = plan != "fused" or dtype in (torch.float32, torch.bfloat16)
    layer = next(m for m in model.modules() if isinstance(m, SummaryLayer))
    assert kinds(fast) == [possible(layer, plan) if runs else "dense"]
    assert fast(x).dtype == dtype


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.every(3, 1)
def test_types_changed_afterwards(name, plan):
    model, x = MODELS[name]()
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        fast = check(model, x).to(dtype)
        out = fast(x.to(dtype))
        assert out.dtype == dtype
        assert error(out, expected(model, x)) < max(_CLOSE[dtype], 1e-5)  # its numbers are those of float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.every(3)
def test_autocast(name, dtype, plan):
    model, x = MODELS[name]()
    fast = check(model, x)
    with torch.autocast("cpu", dtype=dtype):
        out, plain = fast(x), model.eval()(x)
        again = deploy(model, x, measure=False)
    assert out.dtype == plain.dtype
    assert error(out, expected(model, x)) < _CLOSE[dtype]
    assert error(again(x), expected(model, x)) < 1e-5
    double = check(model.double(), x.double(), tolerance=1e-6)
    with torch.autocast("cpu", dtype=dtype):
        assert double(x.double()).dtype == model(x.double()).dtype


def test_inference_mode(plan):
    model, x = signals("autosample", options={"afford": 10})
    fast = check(model, x)
    with torch.inference_mode():
        assert error(fast(x), expected(model, x)) < 1e-5
        other = deploy(model, torch.randn(2, 8, 50), measure=False)
    assert kinds(other) == kinds(fast)
    other.load_state_dict(fast.state_dict())
    x = x.clone().requires_grad_()
    assert error(other(x).detach(), expected(model, x)) < 1e-5


class Devices(TorchDispatchMode):
    """Notes where the tensors are that operators take."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen |= {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        return func(*args, **(kwargs or {}))


def test_other_devices(plan):
    """Nothing that the computation reads may be left behind."""
    for model, x in (signals("random", columns="shuffle", windows=2), images()):
        fast, shape, y = check(model, x).to("meta"), model.eval()(x).shape, x.to("meta")
        with Devices() as devices:
            assert fast(y).shape == shape
        assert devices.seen == {"meta"}
        assert model.to("meta")(y).shape == shape


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.every(3)
def test_export(name, plan):
    model, x = MODELS[name]()
    fast = check(model, x)
    exported = torch.export.export(fast, (x,))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    own = {name for name in called if name.startswith("autosample")}
    assert own == ({"autosample.window_conv.default"} if kinds(fast) == ["fused"] else set())
    assert error(exported.module()(x), expected(model, x)) < 1e-5


@pytest.mark.parametrize("name", ["signals", "denser", "no bias"])
@pytest.mark.parametrize("plan", ["reuse", "fused"])
@pytest.mark.every(3)
def test_export_for_signals_of_any_length(name, plan, monkeypatch):
    force(monkeypatch, plan)
    model, x = MODELS[name]()
    sizes = {0: Dim("batch", min=1, max=100), 2: Dim("length", min=20, max=100_000)}
    exported = torch.export.export(check(model, x), (x,), dynamic_shapes=(sizes,)).module()
    for batch, length in ((1, 20), (2, 51), (7, 1000)):
        y = torch.randn(batch, 8, length)
        assert error(exported(y), expected(model, y)) < 1e-5


@pytest.mark.parametrize("name", ["denser", "images"])
@pytest.mark.every(3)
def test_compile(name, plan):
    _check_compiled(name, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compile_more(name, plan):
    for backend in ("eager", "inductor"):
        _check_compiled(name, backend)


def _check_compiled(name, backend):
    torch._dynamo.reset()
    model, x = MODELS[name]()
    fast = check(model, x)
    compiled = torch.compile(fast, fullgraph=True, backend=backend)
    for y in (x, torch.randn(3, *x.shape[1:-1], x.shape[-1] + 4)):
        with torch.no_grad():
            assert error(compiled(y), expected(model, y)) < 1e-5


def test_standard_operators_only(monkeypatch):
    """Without the fused kernel, the graph holds nothing but torch's own operators."""
    force(monkeypatch, "fused")
    for make in MODELS.values():
        model, x = make()
        set_costs(monkeypatch, {"dense": 1.0, "fused": 0.1, "reuse": 0.2}, others=10.0)
        assert kinds(check(model, x)) == ["fused"]
        fast = check(model, x, fuse=False)
        assert kinds(fast) == ["reuse"]
        graph = torch.export.export(fast, (x,)).graph
        assert {node.target.namespace for node in graph.nodes if node.op == "call_function"} == {"aten"}


WITHOUT_KERNEL = """
import torch, sys
sys.path.insert(0, {here!r})
from deploying import check, kinds, scramble
from torch import nn
from autosample.nn import SummaryConv1d
from autosample.reuse import fused

assert "AUTOSAMPLE_FUSED" in fused.why_not()
model = scramble(nn.Sequential(SummaryConv1d(64, 256, 32, spec="wsnet", ratio=32), nn.BatchNorm1d(256), nn.ReLU()))
x = torch.randn(1, 64, 500)
print(kinds(check(model, x)), kinds(check(model, x, measure=True)))
state = torch.load({file!r}, weights_only=False)
print(state["kinds"], torch.allclose(state["model"](state["x"]), state["y"], rtol=1e-4, atol=1e-4))
"""


def test_without_the_kernel(tmp_path, monkeypatch):
    """Switched off, and with a model that was deployed where it was there."""
    force(monkeypatch, "fused")
    model, x = signals()
    fast = check(model, x)
    torch.save({"model": fast, "kinds": kinds(fast), "x": x, "y": fast(x)}, tmp_path / "model.pt")
    code = WITHOUT_KERNEL.format(here=str(Path(__file__).parents[1]), file=str(tmp_path / "model.pt"))
    environment = os.environ | {"AUTOSAMPLE_FUSED": "0"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    plans, loaded = done.stdout.splitlines()
    assert plans.startswith("['fold'] ")
    assert "fused" not in plans
    assert loaded == "['fused'] True"
