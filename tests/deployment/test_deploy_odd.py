"""Models and examples that are not as one would like them."""

import copy

import numpy
import pytest
import timm
import torch
import torch.nn.functional as F
from deploying import PLANS, check, error, expected, force, kinds, possible, scramble
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from autosample import convert_, deploy
from autosample.deployment import whole
from autosample.errors import ConversionError
from autosample.nn import SummaryConv2d, SummaryLayer, SummaryLinear, execution
from autosample.reuse.layer import WindowConv


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path))


@pytest.fixture(params=PLANS)
def plan(request, monkeypatch) -> str:
    force(monkeypatch, request.param)
    return request.param


def conv(width=8, filters=32, preset="wsnet", **options) -> SummaryConv2d:
    return SummaryConv2d(width, filters, 3, padding=1, spec=preset, ratio=4, **options)


def image() -> torch.Tensor:
    return torch.randn(2, 8, 9, 9)


class Toy(nn.Module):
    """A function of its modules and inputs."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in ({"conv": conv(), "norm": nn.BatchNorm2d(32), "relu": nn.ReLU()} | modules).items():
            self.add_module(name, module)
        scramble(self)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def straight(m, x):
    return m.relu(m.norm(m.conv(x)))


class Half(nn.Module):
    def forward(self, x):
        return x / 2


# why a layer stays dense, or nothing
MODELS = {
    "asks for the kernel size": (lambda m, x: straight(m, x) * m.conv.kernel_size[0] + m.conv.out_channels, ""),
    "asks for the type of the weight": (lambda m, x: straight(m, x.to(m.conv.weight.dtype)), "used elsewhere"),
    "uses the weight": (lambda m, x: straight(m, x) * m.conv.weight.mean(), "used elsewhere"),
    "calls forward": (lambda m, x: m.relu(m.norm(m.conv.forward(x))), "used elsewhere"),
    "does not call it": (lambda m, x: m.norm(x.repeat(1, 4, 1, 1)), "does not reach it"),
    "passes it a keyword": (lambda m, x: m.relu(m.norm(m.conv(input=x))), ""),
    "calls it with two sizes": (lambda m, x: straight(m, x).mean() + m.conv(F.avg_pool2d(x, 2)), ""),
    "begins in place": (lambda m, x: straight(m, x.mul_(2)), ""),
    "draws random numbers": (lambda m, x: F.dropout(straight(m, x)), ""),
    "returns a nest": (lambda m, x: {"y": [straight(m, x), None, 3], "z": (m.conv(x), "text")}, ""),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plan", ["reuse", "fused"])
def test_models(name, plan, monkeypatch):
    force(monkeypatch, plan)
    run, why = MODELS[name]
    model, x = Toy(run), image()
    before, numbers = x.clone(), torch.get_rng_state()
    fast = deploy(model, x, measure=False)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), numbers)
    wanted = expected(model, x.clone(), dtype=None)
    torch.set_rng_state(numbers)
    assert error(fast(x), wanted) < 1e-5
    assert kinds(fast) == (["dense"] if why else [plan])
    assert why in fast.deployment.rows[0].plan.reason


class Numbers(nn.Module):
    """Outputs of all types, some of which are no numbers."""

    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x):
        y = self.conv(x)
        masked = y.masked_fill(x[:, :1] > 0, -torch.inf)
        return y.argmax(1), y > 0, masked, masked * 0, torch.fft.fft2(y)


def test_outputs_that_are_no_numbers(plan):
    model, x = Numbers(), image()
    fast = deploy(model, x, measure=False)
    assert kinds(fast) == [possible(model.conv, plan)]
    assert fast.deployment.error < 1e-5
    with execution("materialize"):
        for got, wanted in zip(fast(x), model.eval()(x), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("wrong", [lambda y: y * 1.01, lambda y: y[:, :1], lambda y: y * torch.nan], ids=range(3))
@pytest.mark.parametrize("measure", [True, False])
def test_outputs_that_change_are_an_error(wrong, measure, monkeypatch):
    force(monkeypatch, "reuse")
    run = WindowConv.forward
    monkeypatch.setattr(WindowConv, "forward", lambda self, input: wrong(run(self, input)))
    monkeypatch.setattr("autosample.reuse.planner.remembered", lambda *args: {"dense": 1.0, "reuse": 0.5, "fused": 2.0})
    model = Toy(lambda m, x: (m.norm(x.repeat(1, 4, 1, 1)), m.conv(x)))
    with pytest.raises(ConversionError, match="deploying changed the outputs"):
        deploy(model, image(), measure=measure)


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_stay(kind, plan):
    model, x, seen = Toy(straight), image(), []
    getattr(model.conv, kind)(lambda module, *args: seen.append(module))
    fast = check(model, x)
    seen.clear()
    fast(x)
    assert seen == [fast.conv]
    assert "hooks" in fast.deployment.rows[0].plan.reason


def test_forward_passes_of_their_own(plan):
    patched, dense = Toy(straight), Toy(straight, conv=nn.Conv2d(8, 32, 3))
    for model in (patched, dense):
        model.conv.forward = lambda x: x.repeat(1, 4, 1, 1).abs()
        fast = deploy(model, x := image(), measure=False)
        assert error(fast(x), straight(model.eval(), x)) < 1e-5
    assert "its own forward pass" in deploy(patched, x).deployment.rows[0].plan.reason

    class Twice(nn.Conv2d):
        def _conv_forward(self, input, weight, bias):
            return 2 * super()._conv_forward(input, weight, bias)

    for convert in (False, True):
        model = Toy(straight, conv=Twice(8, 32, 3))
        if convert:
            convert_(model, "wsnet", ratio=4)
        assert not any(isinstance(m, WindowConv) for m in check(model, image()).modules())


@pytest.mark.parametrize("tensor", ["summary", "bias"])
def test_parametrized_summary_layers(tensor, plan):
    model, x = Toy(straight), image()
    parametrize.register_parametrization(model.conv, tensor, Half())
    wanted = expected(model, x)
    fast = check(model, x)
    assert error(fast(x), wanted) < 1e-5
    assert torch.equal(model(x), model(x))  # it still is what it was
    assert parametrize.is_parametrized(model.conv)
    assert not any(parametrize.is_parametrized(m) for m in fast.modules())


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_normed_weights(norm, plan):
    model = Toy(lambda m, x: straight(m, m.first(x)), first=norm(nn.Conv2d(8, 8, 3)), conv=conv())
    model(image()).sum().backward()
    fast = check(model, image())
    assert type(fast.first) is nn.Conv2d
    assert set(fast.first.state_dict()) == {"weight", "bias"}
    assert parametrize.is_parametrized(model.first)
    model = Toy(straight, conv=norm(nn.Conv2d(8, 32, 3)))
    assert check(model, image()).deployment.rows[0].folded == ("norm",)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weights_normed_by_a_hook(plan):
    model = Toy(straight, conv=nn.utils.weight_norm(nn.Conv2d(8, 32, 3)), other=conv(32))
    with torch.no_grad():  # or the test could not copy it
        model(image())
    assert check(model, image()).deployment.rows[0].folded == ("norm",)


EXAMPLES = {
    "none": (None, ConversionError, "NoneType"),
    "a list": ([image()], ConversionError, "got list"),
    "an array": (numpy.zeros((2, 8, 9, 9), numpy.float32), ConversionError, "ndarray"),
    "another type": (image().double(), ConversionError, "double"),
    "other channels": (image()[:, :7], ConversionError, "an input of the model, got shape .* channels"),
    "too many": ((image(), image()), ConversionError, "positional argument"),
    "none at all": ((), ConversionError, "missing"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_that_are_no_input(name):
    example, kind, match = EXAMPLES[name]
    model = nn.Sequential(conv())
    with pytest.raises(kind, match=match):
        deploy(model, example)
    with pytest.raises(TypeError, match="example"):
        deploy(model)


@pytest.mark.parametrize("example", [image()[:0], torch.zeros(2, 8, 9, 9), image().requires_grad_()], ids=range(3))
def test_examples_of_little_use(example):
    model = Toy(straight)
    fast = deploy(model, example)
    x = image()
    assert error(fast(x), expected(model, x)) < 1e-5


def test_several_inputs(plan):
    model = Toy(lambda m, a, b, scale=1: (straight(m, a) * scale, m.other(b["b"])), other=conv(4, 8))
    inputs = image(), {"b": torch.randn(1, 4, 12, 12)}, 3
    assert [row.name for row in check(model, *inputs).deployment.rows] == ["conv", "other"]
    assert error(deploy(model, inputs)(*inputs), expected(model, *inputs)) < 1e-5


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs, **options):
        return self.module(*inputs, **options)


@pytest.mark.parametrize("wrap", [Wrapper, nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=range(3))
@pytest.mark.every(3)
def test_wrapped_models(wrap, plan):
    model, x = wrap(Toy(straight)), image()
    fast = deploy(model, x, measure=False)
    assert error(fast(x), expected(model, x)) < 1e-5
    assert [row.name.partition(".")[2] for row in fast.deployment.rows] == ["conv"]


def test_views_that_need_the_usual_layout(monkeypatch):
    """`channels_last` may be faster, but not every model can have it."""
    times = iter([1.0, 0.1] * 9)
    timing = type("Timing", (), {})

    def in_turn(sides, **options):
        found = [timing() for _ in sides]
        for side in found:
            side.median = next(times)
        return found

    monkeypatch.setattr(whole, "time_in_turn", in_turn)
    for view, layout in ((torch.flatten, torch.channels_last), (lambda y, d: y.view(len(y), -1), None)):
        model = Toy(lambda m, x, view=view: m.fc(view(m.other(m.relu(m.conv(x))), 1)),
                    conv=nn.Conv2d(8, 32, 3), other=nn.Conv2d(32, 16, 3), fc=nn.Linear(400, 3))  # fmt: skip
        fast = deploy(model, x := image(), fuse=False)
        assert fast.conv.weight.is_contiguous(memory_format=layout or torch.contiguous_format)
        assert error(fast(x), expected(model, x)) < 1e-5
        assert fast.deployment.rows == ()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_scripted_parts(plan):
    inner = torch.jit.script(scramble(nn.Sequential(nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8))).eval())
    model, x = Toy(lambda m, x: m.inner(straight(m, x)), inner=inner), image()
    with execution("materialize"):
        wanted = copy.deepcopy(model).eval()(x)
    assert error(deploy(model, x, measure=False)(x), wanted.detach()) < 1e-5


def test_attention(plan):
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    model = nn.Sequential(Toy(lambda m, x: m.attention(x, x, x)[0], attention=attention, conv=None), nn.Linear(32, 64))
    convert_(model, "wsnet", ratio=8, include=["0.attention.out_proj", "1"])
    assert isinstance(attention.out_proj, SummaryLayer)
    fast = check(model, torch.randn(2, 7, 32))
    assert {row.name for row in fast.deployment.rows} == {"0.attention.out_proj", "1"}


# options, what to convert, and a layer with the reason for its plan; dynamic padding, standardised weights
NETS = {
    "tf_efficientnet_lite0": ({}, ["conv_stem", "blocks"], "conv_stem", "Conv2dSame has its own forward pass"),
    "test_nfnet": ({}, ["stages"], "stages.0.0.conv1", "ScaledStdConv2d has its own forward pass"),
    "resnetv2_50": ({"layers": (1, 1, 1, 1), "channels": (32, 32, 32, 32)}, ["stages"],
                    "stages.0.blocks.0.conv2", "10.0x predicted"),
    "vit_tiny_patch16_224": ({"img_size": 64, "depth": 2}, ["blocks"], "blocks.0.attn.proj", "no taps to slide along"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("preset", ["wsnet", "nes"])
@pytest.mark.every(3)
def test_nets_with_layers_of_their_own(name, preset, monkeypatch):
    force(monkeypatch, "reuse")
    options, include, layer, reason = NETS[name]
    model = scramble(timm.create_model(name, num_classes=5, **options))
    convert_(model, preset, ratio=8, include=include)
    fast = check(model, torch.randn(2, 3, 64, 64), tolerance=1e-4)
    assert {row.name: row.plan.reason for row in fast.deployment.rows}[layer] == reason


def test_an_index_learner_without_a_hook_left(plan):
    model = Toy(straight, conv=conv(preset="nes"), fc=SummaryLinear(9, 8, spec="nes", ratio=4))
    model.train()(image())
    fast = check(model, image())
    assert {type(m) for m in fast.modules()} <= {Toy, WindowConv, nn.Conv2d, nn.Linear, nn.Identity, nn.ReLU}
