"""Conversion: which layers, with what, and that a converted model goes on being the model that it was."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from autosample import PRESETS, convert, convert_, harden_, report, spec
from autosample.convert import summary_layers
from autosample.errors import ConversionError, SpecError
from autosample.nn import SummaryConv2d, SummaryLayer
from autosample.report import Row
from autosample.select import choose_layers

NAMES = ["stem", "block.conv1", "block.conv2", "body.conv1", "head"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 16, 3)

    def forward(self, x):
        return self.conv2(torch.relu(self.norm(self.conv1(x))))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(16, 24, 5)

    def forward(self, x):
        return self.conv1(x)


class Net(nn.Module):
    """Layers of every kind, under names that share parts."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.body, self.head = nn.Conv2d(3, 16, 3), Block(), Body(), nn.Linear(24, 12)

    def forward(self, x):
        x = self.block(torch.relu(self.stem(x))).flatten(2)
        return self.head(self.body(x).mean(2))


def image(dtype=torch.float32):
    return torch.randn(2, 3, 9, 9, dtype=dtype)


def presets_of(model) -> dict[str, str]:
    return {name: layer.spec.preset for name, layer in summary_layers(model).items()}


def converted(**options) -> set[str]:
    model = Net()
    convert_(model, **{"ratio": 4} | options)
    return set(summary_layers(model))


def distance(a, b) -> float:
    return ((a - b).norm() / b.norm()).item()


def row(result, name) -> Row:
    return next(r for r in result.rows if r.name == name)


# --- which layers ---------------------------------------------------------------------------------------------------


def test_all_layers_by_default():
    assert converted() == set(NAMES)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"include": ["block.conv1"]}, ["block.conv1"]),
        ({"include": ["block"]}, ["block.conv1", "block.conv2"]),
        ({"include": "block"}, ["block.conv1", "block.conv2"]),
        ({"include": ["re:.*conv1"]}, ["block.conv1", "body.conv1"]),
        ({"include": ["re:b(lock|ody).*"], "exclude": ["body"]}, ["block.conv1", "block.conv2"]),
        ({"include": ["Conv1d", nn.Linear]}, ["body.conv1", "head"]),
        ({"include": nn.Linear}, ["head"]),
        ({"exclude": [nn.Conv2d]}, ["body.conv1", "head"]),
        ({"exclude": ["Conv2d", "head"]}, ["body.conv1"]),
        ({"exclude": ["re:conv1"]}, NAMES),  # a pattern is for the whole name
        ({"overrides": {"head": None, "Conv2d": "dense"}}, ["body.conv1"]),
    ],
)
@pytest.mark.filterwarnings("ignore:exclude rule")
def test_include_and_exclude(options, names):
    assert converted(**options) == set(names)


def test_names_beat_patterns_beat_types():
    model = Net()
    rules = {
        nn.Conv2d: "wsnet",
        "re:.*conv1": "fsnet",
        "block.conv1": "random",
        "block": "hashednet",
        "Linear": {"ratio": 2},
    }
    for order in (rules, dict(reversed(rules.items()))):
        model = Net()
        convert_(model, "autosample", ratio=4, overrides=order)
        assert presets_of(model) == {
            "stem": "wsnet",  # by type
            "body.conv1": "fsnet",  # by pattern
            "block.conv1": "random",  # its own name, before that of the module above
            "block.conv2": "hashednet",  # the module above, before the type
            "head": "autosample",
        }
        assert model.head.spec.ratio == 2
        assert all(summary_layers(model)[name].spec.ratio == 4 for name in NAMES if name != "head")


def test_overrides_are_changes_presets_or_specs():
    model = Net()
    mine = spec("random", ratio=3, signs="random")
    convert_(
        model,
        "wsnet",
        ratio=4,
        overrides={
            "stem": {"seed": 5},
            "block.conv1": {"spatial": 3, "channel": 4},  # WSNet's terms in place of the ratio
            "block.conv2": {"preset": "wsnet", "spatial": 3},
            "body": {"preset": "random", "window": 3, "layout": "flat"},
            "head": mine,
        },
    )
    assert (model.stem.spec.ratio, model.stem.spec.seed) == (4, 5)
    assert model.block.conv1.spec == spec("wsnet", spatial=3, channel=4)
    assert model.block.conv1.summary.shape == (9 + 31 * 3, 16 // 4)  # L = K + (N − 1)·⌈K / S⌉, M / C columns
    assert model.block.conv2.spec == spec("wsnet", spatial=3)
    assert model.body.conv1.spec == spec("random", ratio=4, window=3, layout="flat")
    assert model.head.spec == mine


def test_first_convolution_and_classifier_of_a_timm_model_stay_dense():
    model = timm.create_model("test_resnet")
    first, last = model.pretrained_cfg["first_conv"], model.pretrained_cfg["classifier"]
    for wrapped in (False, True):
        outer = nn.ModuleDict({"inner": copy.deepcopy(model)}) if wrapped else copy.deepcopy(model)
        prefix = "inner." if wrapped else ""
        result = convert_(outer, ratio=4)
        for name, why in ((first, "first convolution"), (last, "classifier")):
            assert row(result, prefix + name).method == "dense"
            assert row(result, prefix + name).note.startswith(why)
        dense = {r.name for r in result.rows if r.method == "dense"}
        assert dense == {prefix + first, prefix + last}
    for how in (first, f"re:{first}", "stem"):
        asked = copy.deepcopy(model)
        options = {"overrides": {first: {"ratio": 2}}} if how == "stem" else {"include": [how, "layer1"]}
        convert_(asked, ratio=4, **options)
        assert first in summary_layers(asked)
        assert last not in summary_layers(asked)
    # a type does not name them
    asked = copy.deepcopy(model)
    convert_(asked, ratio=4, include=[nn.Conv2d], overrides={"Conv2d": {"seed": 1}})
    assert first not in summary_layers(asked)


def test_every_dense_layer_has_a_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Conv2d(16, 32, 3)
            self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
            self.multiplied = nn.Conv2d(16, 32, 3, groups=16)
            self.small = nn.Linear(2, 1)
            self.tied, self.table = nn.Linear(16, 40, bias=False), nn.Embedding(40, 16)
            self.tied.weight = self.table.weight
            self.normed = parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
            self.spectral = nn.utils.spectral_norm(nn.Linear(16, 16))
            self.pruned = prune.random_unstructured(nn.Linear(16, 16), "weight", 0.5)
            self.up, self.volume = nn.ConvTranspose2d(8, 8, 3), nn.Conv3d(4, 4, 3)
            self.lazy = nn.LazyConv2d(8, 3)
            self.whole = nn.Linear(16, 16).requires_grad_(False)
            self.whole.weight.data = torch.zeros(16, 16, dtype=torch.int8)
            self.complex = nn.Conv1d(8, 8, 9, dtype=torch.complex64)

    model = Odd()
    before = {name: id(p) for name, p in model.named_parameters() if not name.startswith("fine")}
    result = convert_(model, "random", ratio=2)
    assert set(summary_layers(model)) == {"fine"}
    assert {name: id(p) for name, p in model.named_parameters() if not name.startswith("fine")} == before
    reasons = {
        "depthwise": "depthwise",
        "multiplied": "depthwise",
        "small": "too small",
        "tied": "shared: tied.weight and table.weight",
        "normed": "computed by something else",
        "spectral": "computed by something else",
        "pruned": "computed by something else",
        "up": "only Conv1d, Conv2d and Linear",
        "volume": "only Conv1d, Conv2d and Linear",
        "lazy": "lazy",
        "whole": "int8",
        "complex": "complex64",
    }
    for name, reason in reasons.items():
        assert reason in row(result, name).note, name
    assert {r.name for r in result.rows} == {*reasons, "fine", "(rest)"}
    # later reports still know
    assert report(model) == result


def test_too_many_windows_for_one_layer_is_a_reason_and_no_size_at_all_an_error():
    model = nn.Sequential(nn.Conv2d(4, 32, 3), nn.Conv2d(32, 32, 3))
    result = convert_(model, "random", ratio=4, windows=16)
    assert "windows must be at most 4" in row(result, "0").note
    with pytest.raises(SpecError, match="needs a size, got none: pass ratio=8"):
        convert_(Net(), "wsnet")


def test_a_dense_spec_converts_nothing():
    model = Net()
    result = convert_(model, "dense", ratio=8)
    assert not summary_layers(model)
    assert {r.note for r in result.rows if r.method == "dense"} == {"dense by its preset"}
    assert result.ratio == 1


def test_a_module_under_two_names_is_converted_once():
    shared = nn.Linear(32, 32)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    convert_(model, "random", ratio=4)
    assert list(summary_layers(model)) == ["0"]
    assert model[0] is model[2]
    model(torch.randn(2, 32)).sum().backward()
    assert shared.summary.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": []}, "no layer is left to convert"),
        ({"exclude": [nn.Module]}, "no layer is left to convert"),
        ({"include": ["blok"]}, 'no layer is left to convert, got include=.*known: block.conv1, .*"?stem'),
        ({"overrides": {"Conv2d": None, "Conv1d": None, "Linear": None}}, "worth converting, got none"),
        ({"include": ["re:("]}, r"a re: rule must be a regular expression, got 're:\('"),
        ({"exclude": [3]}, "exclude takes names, re: patterns and layer types, got 3"),
        ({"preset": "hashednet", "gains": "window"}, "worth converting, got none .*too small"),
        ({"ratio": 1.01}, "worth converting, got none .*too small"),
    ],
)
def test_mistakes(options, message):
    model = Net()
    options = {"ratio": 4} | options
    with pytest.raises(ConversionError, match=message) as caught:
        convert_(model, options.pop("preset", "autosample"), **options)
    assert "\n" not in str(caught.value)
    assert not summary_layers(model)


def test_long_lists_of_names_are_cut():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(500)))
    with pytest.raises(ConversionError) as caught:
        convert_(model, ratio=4, include=["nothing"])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(), nn.Embedding(4, 4), nn.ConvTranspose2d(8, 8, 3)])
def test_nothing_to_convert(model):
    with pytest.raises(ConversionError, match="needs a Conv1d, Conv2d or Linear"):
        convert_(model, ratio=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": ["block.conv3"]}, r'exclude rule .block.conv3. matched no layer: did you mean "block.conv'),
        ({"include": ["block", "re:.*conv9"]}, "include rule .re:.*conv9. matched no layer"),
        ({"overrides": {"body": {"seed": 1}, "block.norm": None}}, "overrides rule .block.norm. matched no layer"),
        ({"overrides": {nn.Conv3d: None}}, "overrides rule .*Conv3d.* matched no layer"),
    ],
)
def test_a_rule_that_matches_nothing_is_told(options, message):
    with pytest.warns(UserWarning, match=message) as caught:
        convert_(Net(), ratio=4, **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("hard", [False, True])
def test_a_model_is_converted_once(hard):
    model = Net()
    convert_(model, ratio=4, include=["block"])
    if hard:
        harden_(model)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ConversionError, match=r'converted once, got one where layer "block.conv1" is'):
        convert_(model, ratio=4)
    with pytest.raises(ConversionError, match="converted once, got one where the layer itself is"):
        convert_(model.block.conv1, ratio=4)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_harden_needs_summary_layers():
    with pytest.raises(ConversionError, match="call convert_ first"):
        harden_(Net())


# --- what a conversion does -----------------------------------------------------------------------------------------


def test_convert_leaves_the_original_untouched():
    model = Net()
    before, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    x = image()
    out = model.eval()(x)
    twin, result = convert(model, "autosample", ratio=4, warm_start=True)
    assert set(summary_layers(twin)) == set(NAMES)
    assert result == report(twin)
    assert [type(m) for m in model.modules()] == kinds
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(model(x), out)
    # and nothing is shared with it
    storages = {p.data_ptr() for p in model.parameters()}
    assert not storages & {p.data_ptr() for p in twin.parameters()}
    # of its rows, none remembers a reason
    assert {r.note for r in report(model).rows if r.kind} == {""}


def test_modules_keep_their_identity_hooks_and_biases():
    model = Net()
    conv, calls = model.block.conv1, []
    conv.register_forward_hook(lambda *args: calls.append(1))
    bias = conv.bias
    convert_(model, ratio=4)
    assert model.block.conv1 is conv
    assert conv.bias is bias
    model(image())
    assert calls == [1]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(64, 32), (5, 64)),
        (nn.Conv1d(16, 32, 9, padding="same"), (2, 16, 20)),
        (nn.Conv2d(16, 32, 3, bias=False), (2, 16, 6, 6)),
    ],
)
def test_single_layers(layer, shape):
    layer = copy.deepcopy(layer)
    kind, keys = type(layer), set(layer.state_dict()) - {"weight"}
    result = convert_(layer, "wsnet", ratio=4)
    assert isinstance(layer, kind)
    assert isinstance(layer, SummaryLayer)
    assert set(layer.state_dict()) == keys | {"summary"}
    assert summary_layers(layer) == {"": layer}
    assert [r.name for r in result.rows] == ["", "(rest)"]
    assert layer(torch.randn(shape)).isfinite().all()


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
def test_a_fresh_summary_has_the_scale_of_the_weight(preset):
    model = nn.Conv2d(32, 64, 3)
    nn.init.normal_(model.weight, std=0.37)
    convert_(model, preset, ratio=4)
    assert model.summary.std().item() == pytest.approx(0.37, rel=0.1)
    assert model.weight.std().item() == pytest.approx(0.37, rel=0.15)


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
def test_a_warm_start_lowers_the_error_and_reports_it(preset):
    model = Net()
    dense = {name: model.get_submodule(name).weight.detach().clone() for name in NAMES}
    cold, cold_result = convert(model, preset, ratio=4)
    warm, result = convert(model, preset, ratio=4, warm_start=True)
    for name in NAMES:
        error, cold_error = (distance(twin.get_submodule(name).weight, dense[name]) for twin in (warm, cold))
        assert error < 1 <= cold_error  # zeros would have an error of 1
        assert row(cold_result, name).fit_error is None
        if preset not in ("dfsnet", "nes"):  # soft until hardened
            assert row(result, name).fit_error == pytest.approx(error, abs=1e-4)
    harden_(warm)
    for name in NAMES:
        error = distance(warm.get_submodule(name).weight, dense[name])
        assert row(result, name).fit_error == pytest.approx(error, abs=1e-4)
        assert row(report(warm), name).fit_error == row(result, name).fit_error


@pytest.mark.parametrize("preset", ["kmeans", "dfsnet", "autosample"])  # those that can place their windows freely
def test_at_a_ratio_near_one_a_warm_start_is_close_to_the_model(preset):
    """Filters that repeat one another, as trained ones do: three copies of each, with a little noise."""
    model = nn.Sequential(nn.Conv2d(8, 48, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48 * 16, 30)).eval()
    with torch.no_grad():
        for layer in (model[0], model[3]):
            base = layer.weight[: len(layer.weight) // 3]
            layer.weight.copy_(base.repeat(3, *[1] * (base.dim() - 1)) + 1e-3 * torch.randn_like(layer.weight))
    x = torch.randn(20, 8, 6, 6)
    expected = model(x)
    twin, result = convert(model, preset, ratio=1.1, warm_start=True)
    assert len(result.converted) == 2
    assert max(r.fit_error for r in result.converted) < 0.1
    assert distance(harden_(twin)(x), expected) < 0.1


def test_frozen_layers_stay_frozen():
    model = Net()
    model.block.requires_grad_(False)
    for preset in ("autosample", "nes", "wsnet"):
        twin, _ = convert(model, preset, ratio=4, gains="filter")
        learned = {name for name, p in twin.named_parameters() if p.requires_grad}
        assert not any(name.startswith("block") for name in learned)
        assert "stem.summary" in learned
        assert "stem.gains" in learned
        twin(image()).sum().backward()
        assert all(p.grad is None for p in twin.block.parameters())


def test_an_evaluated_model_stays_in_evaluation():
    model = Net().eval()
    convert_(model, "nes", ratio=4)
    assert not any(module.training for module in model.modules())
    routing = model.stem.offsets.routing.clone()
    x = image()
    assert torch.equal(model(x), model(x))
    assert torch.equal(model.stem.offsets.routing, routing)


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_nothing_changes_its_dtype(preset, dtype):
    model = Net().to(dtype)
    convert_(model, preset, ratio=4, gains="filter", signs="random", warm_start=True)
    for layer in summary_layers(model).values():
        assert {layer.summary.dtype, layer.gains.dtype, layer.bias.dtype, layer.weight.dtype} == {dtype}
    out = model(image(dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
def test_nothing_leaves_its_device(preset):
    model = Net().cuda()
    convert_(model, preset, ratio=4, gains="filter", signs="random", columns="shuffle", warm_start=True)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}
    assert model(image().cuda()).isfinite().all()


# --- it goes on being a torch model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
def test_states_load_strictly_between_two_conversions(preset):
    first, second = (convert(Net(), preset, ratio=4, signs="random", seed=seed)[0].eval() for seed in (0, 1))
    x = image()
    assert not torch.equal(first(x), second(x))
    missing, unexpected = second.load_state_dict(first.state_dict(), strict=True)
    assert (missing, unexpected) == ([], [])
    assert torch.equal(first(x), second(x))
    harden_(first)
    harden_(second)
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("hard", [False, True])
def test_deepcopy_and_pickle_of_timm_models_with_their_own_convolutions(hard):
    model = timm.create_model("test_nfnet", num_classes=5)
    convert_(model, "autosample", ratio=4)
    if hard:
        harden_(model)
    kinds = {type(layer).__name__ for layer in summary_layers(model).values()}
    assert "SummaryScaledStdConv2d" in kinds
    model.eval()
    x = torch.randn(1, 3, 64, 64)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
        assert torch.equal(twin(x), model(x))
        assert report(twin) == report(model)


def test_exponential_moving_average():
    model = convert(Net(), "autosample", ratio=4)[0]
    average = ModelEmaV3(model, decay=0.75)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    average.update(model)
    for name, p in average.module.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] + 0.25)
    assert average.module(image()).isfinite().all()
    harden_(average.module)
    assert average.module(image()).isfinite().all()


def test_averaged_model():
    model = convert(Net(), "autosample", ratio=4)[0]
    average = AveragedModel(model)
    for step in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(float(step))
        average.update_parameters(model)
    assert {p.mean().item() for p in average.parameters()} == {1.0}
    assert average(image()).isfinite().all()


def test_compile_keeps_names():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv1d(8, 16, 5), nn.ReLU(), nn.Conv1d(16, 8, 3))
    convert_(model, "autosample", ratio=4)
    names, x = list(model.state_dict()), torch.randn(2, 8, 20)
    expected = model(x)
    model.compile(backend="aot_eager")
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == names
    assert list(summary_layers(model)) == ["0", "2"]


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Conv2dSame, {"stride": 2}),
        (StdConv2d, {"padding": 1}),
        (ScaledStdConv2d, {"padding": 1, "gamma": 1.7}),
    ],
)
def test_special_convolutions_keep_their_forward(kind, options, preset):
    dense = kind(8, 16, 3, **options)
    if kind is ScaledStdConv2d:
        nn.init.normal_(dense.gain)
    layer = copy.deepcopy(dense)
    convert_(layer, preset, ratio=4)
    assert isinstance(layer, kind)
    assert type(layer).__name__ == f"Summary{kind.__name__}"
    layer.eval()
    dense.load_state_dict(dense.state_dict() | {"weight": layer.weight.detach()})
    x = torch.randn(2, 8, 11, 11)
    assert torch.equal(layer(x), dense.eval()(x))
    plain = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    assert plain.shape != layer(x).shape or not torch.allclose(plain, layer(x))  # else there was nothing to keep


class ConvNormMask(nn.Conv2d):
    """A convolution with a module, a buffer and an argument of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.norm = nn.BatchNorm2d(self.out_channels)
        self.register_buffer("shift", torch.arange(3.0))

    def forward(self, x, mask=None):
        out = self.norm(super().forward(x)) + self.shift.sum()
        return out if mask is None else out * mask


@pytest.mark.parametrize("preset", ["wsnet", "autosample", "nes"])
def test_subclasses_with_more_than_a_weight(preset):
    dense = ConvNormMask(8, 16, 3).eval()
    layer = copy.deepcopy(dense)
    result = convert_(layer, preset, ratio=4)
    dense.weight.data = layer.weight.detach()
    x, mask = torch.randn(2, 8, 5, 5), torch.rand(3, 3)
    assert torch.equal(layer(x, mask), dense(x, mask))
    assert torch.equal(layer(x, mask=mask), dense(x, mask))
    assert torch.equal(layer(x=x), dense(x))
    assert result.dense_bytes == sum(t.nbytes for t in dense.state_dict().values())


def test_weights_that_are_read_without_calling_their_layer():
    """Attention in torch reads `out_proj.weight` itself, and has a fast path of its own."""
    dense = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    layer = copy.deepcopy(dense)
    convert_(layer, "autosample", ratio=4)
    assert isinstance(layer.out_proj, SummaryLayer)
    dense.out_proj.weight.data = layer.out_proj.weight.detach()
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(layer(x, x, x)[0], dense(x, x, x)[0])
    with torch.no_grad():
        torch.testing.assert_close(layer(x, x, x)[0], dense(x, x, x)[0])
    with torch.no_grad():
        layer.out_proj.offsets.position.add_(0.3)  # the interpolation has a kink at integers
    layer.train()(x, x, x)[0].square().sum().backward()
    assert layer.out_proj.summary.grad.any()
    assert layer.out_proj.offsets.position.grad.any()


def test_transformer_encoders():
    dense = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0).eval()
    layer = copy.deepcopy(dense)
    convert_(layer, "wsnet", ratio=4)
    for name in summary_layers(layer):
        dense.get_submodule(name).weight.data = layer.get_submodule(name).weight.detach()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), dense(x))


def test_choices_name_layers_specs_and_reasons():
    model = Net()
    choices = choose_layers(model, spec("wsnet", ratio=4), exclude=["head"], overrides={"stem": {"ratio": 2}})
    assert [c.name for c in choices] == NAMES
    assert all(c.layer is model.get_submodule(c.name) for c in choices)
    assert [c.spec.ratio if c.spec else c.reason for c in choices] == [2, 4, 4, 4, "excluded by 'head'"]
    assert not summary_layers(model)


def test_the_type_of_a_twin_is_made_once():
    a, b = (convert(timm.layers.StdConv2d(8, 16, 3), "wsnet", ratio=4)[0] for _ in range(2))
    assert type(a) is type(b)
    assert type(convert(nn.Conv2d(8, 16, 3), "wsnet", ratio=4)[0]) is SummaryConv2d


def test_an_override_comes_before_what_a_preset_says_of_a_kind():
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3))
    convert_(model, "autosample", ratio=4, overrides={"1": {"rate": 0.05}})
    assert model[1].spec.rate == 0.05
    assert model[0].spec.rate == spec("autosample").for_kind("conv2d").rate
