"""Which layers `convert_` takes, with which spec, and what it says of the others."""

import copy

import pytest
import timm
import torch
from nets import NAMES, Net, converted, presets_of, row
from torch import nn
from torch.nn.utils import parametrizations, prune

from autosample import convert_, harden_, report, spec
from autosample.errors import ConversionError, SpecError
from autosample.model.select import choose_layers
from autosample.nn import compressed_layers


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
        ({"exclude": ["re:conv1"]}, NAMES),  # an expression is for the whole name
        ({"overrides": {"head": None, "Conv2d": "dense"}}, ["body.conv1"]),
    ],
)
@pytest.mark.filterwarnings("ignore:exclude pattern")
def test_include_and_exclude(options, names):
    assert converted(**options) == set(names)


def test_names_beat_expressions_beat_types():
    patterns = {
        nn.Conv2d: "wsnet",
        "re:.*conv1": "fsnet",
        "block.conv1": "random",
        "block": "hashednet",
        "Linear": {"ratio": 2},
    }
    for order in (patterns, dict(reversed(patterns.items()))):
        model = Net()
        convert_(model, "autosample", ratio=4, overrides=order)
        assert presets_of(model) == {
            "stem": "wsnet",  # by type
            "body.conv1": "fsnet",  # by expression
            "block.conv1": "random",  # its own name, before that of the module above
            "block.conv2": "hashednet",  # the module above, before the type
            "head": "autosample",
        }
        assert model.head.spec.ratio == 2
        assert all(compressed_layers(model)[name].spec.ratio == 4 for name in NAMES if name != "head")


def test_overrides_are_changes_presets_or_specs():
    model = Net()
    mine = spec("random", ratio=3, signs="random")
    convert_(
        model,
        "wsnet",
        ratio=4,
        overrides={
            "stem": {"seed": 5},
            "block.conv1": {"options": {"spatial": 3, "channel": 4}},  # WSNet's terms in place of the ratio
            "block.conv2": {"preset": "wsnet", "options": {"spatial": 3}},
            "body": {"preset": "random", "window": 3, "layout": "flat"},
            "head": mine,
        },
    )
    assert (model.stem.spec.ratio, model.stem.spec.seed) == (4, 5)
    assert model.block.conv1.spec == spec("wsnet", options={"spatial": 3, "channel": 4})
    assert model.block.conv1.summary.shape == (9 + 31 * 3, 16 // 4)  # L = K + (N − 1)·⌈K / S⌉, M / C columns
    assert model.block.conv2.spec == spec("wsnet", options={"spatial": 3})
    assert model.body.conv1.spec == spec("random", ratio=4, window=3, layout="flat")
    assert model.head.spec == mine


def test_first_convolution_and_classifier_of_a_timm_model_stay_dense():
    model = timm.create_model("test_resnet")
    first, last = model.pretrained_cfg["first_conv"], model.pretrained_cfg["classifier"]
    for wrapped in (False, True):
        outer = nn.ModuleDict({"inner": copy.deepcopy(model)}) if wrapped else copy.deepcopy(model)
        prefix = "inner." if wrapped else ""
        result = convert_(outer, ratio=4, share="even")
        for name, why in ((first, "first convolution"), (last, "classifier")):
            assert row(result, prefix + name).method == "dense"
            assert row(result, prefix + name).note.startswith(why)
        dense = {r.name for r in result.rows if r.method == "dense"}
        assert dense == {prefix + first, prefix + last}
    for how in (first, f"re:{first}", "stem"):
        asked = copy.deepcopy(model)
        options = {"overrides": {first: {"ratio": 2}}} if how == "stem" else {"include": [how, "layer1"]}
        convert_(asked, ratio=4, share="even", **options)
        assert first in compressed_layers(asked)
        assert last not in compressed_layers(asked)
    # a type does not name them
    asked = copy.deepcopy(model)
    convert_(asked, ratio=4, include=[nn.Conv2d], overrides={"Conv2d": {"seed": 1}})
    assert first not in compressed_layers(asked)


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
            self.up, self.one_to_one = nn.ConvTranspose3d(8, 8, 3), nn.ConvTranspose2d(8, 8, 3, groups=8)
            self.lazy = nn.LazyConv2d(8, 3)
            self.whole = nn.Linear(16, 16).requires_grad_(False)
            self.whole.weight.data = torch.zeros(16, 16, dtype=torch.int8)
            self.complex = nn.Conv1d(8, 8, 9, dtype=torch.complex64)

    model = Odd()
    before = {name: id(p) for name, p in model.named_parameters() if not name.startswith("fine")}
    result = convert_(model, "random", ratio=2)
    assert set(compressed_layers(model)) == {"fine"}
    assert {name: id(p) for name, p in model.named_parameters() if not name.startswith("fine")} == before
    reasons = {
        "depthwise": "depthwise",
        "multiplied": "depthwise",
        "small": "too small",
        "tied": "shared: tied.weight and table.weight",
        "normed": "computed from other tensors",
        "spectral": "computed from other tensors",
        "pruned": "computed from other tensors",
        "up": "only Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d and Linear can be compressed",
        "one_to_one": "depthwise",
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
    assert not compressed_layers(model)
    assert {r.note for r in result.rows if r.method == "dense"} == {"dense by its preset"}
    assert result.ratio == 1


def test_a_module_under_two_names_is_converted_once():
    shared = nn.Linear(32, 32)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    convert_(model, "random", ratio=4)
    assert list(compressed_layers(model)) == ["0"]
    assert model[0] is model[2]
    model(torch.randn(2, 32)).sum().backward()
    assert shared.summary.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": []}, "no layer is left to convert"),
        ({"exclude": [nn.Module]}, "no layer is left to convert"),
        ({"include": ["blok"]}, "no layer is left to convert, got include=.*: layers are .*block.conv1, "),
        ({"overrides": {"Conv2d": None, "Conv1d": None, "Linear": None}}, "no layer would become smaller"),
        ({"include": ["re:("]}, r"a re: pattern must be a valid regular expression, got 're:\('"),
        ({"exclude": [3]}, "exclude takes names, re: expressions and layer types, got 3"),
        ({"ratio": 1.01}, "no layer would become smaller .*too small"),
        ({"overrides": {"stem": 8}}, "overrides map patterns to fields of a spec, a preset or None, got 8"),
    ],
)
def test_mistakes(options, message):
    model = Net()
    options = {"ratio": 4} | options
    with pytest.raises(ConversionError, match=message) as caught:
        convert_(model, options.pop("preset", "autosample"), **options)
    assert "\n" not in str(caught.value)
    assert not compressed_layers(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"planned_bits": bits}, "planned_bits must be a whole number from 2 to 32") for bits in (1, 64, 4.0, True)),
        ({"overrides": {"stem": {"rate": 0.1}}}, r'"rate" is an option of the rule, .*: write options='),
        ({"overrides": {"stem": {"options": {"ratee": 0.1}}}}, r'no option "ratee": did you mean "rate"'),
        ({"overrides": {"stem": {"options": 3}}}, "options must be a mapping"),
        ({"overrides": {"stem": "wsnett"}}, 'did you mean "wsnet"'),
    ],
)
def test_unusable_specs(options, message):
    model = Net()
    with pytest.raises(SpecError, match=message) as caught:
        convert_(model, ratio=4, **options)
    assert "\n" not in str(caught.value)
    assert not compressed_layers(model)


def test_long_lists_of_names_are_cut():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(500)))
    with pytest.raises(ConversionError) as caught:
        convert_(model, ratio=4, include=["nothing"])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(), nn.Embedding(4, 4), nn.ConvTranspose3d(8, 8, 3)])
def test_nothing_to_convert(model):
    with pytest.raises(ConversionError, match=r"only Conv1d, Conv2d, Conv3d, .* and Linear can be converted"):
        convert_(model, ratio=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": ["block.conv3"]}, r'exclude pattern .block.conv3. matches no layer: did you mean "block.conv'),
        ({"include": ["block", "re:.*conv9"]}, "include pattern .re:.*conv9. matches no layer"),
        ({"overrides": {"body": {"seed": 1}, "block.norm": None}}, "overrides pattern .block.norm. matches no layer"),
        ({"overrides": {nn.Conv3d: None}}, "overrides pattern .*Conv3d.* matches no layer"),
    ],
)
def test_a_pattern_that_matches_nothing_is_told(options, message):
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
    with pytest.raises(ConversionError, match=r'converted once, got one in which layer "block.conv1" is'):
        convert_(model, ratio=4)
    with pytest.raises(ConversionError, match="converted once, got a converted layer"):
        convert_(model.block.conv1, ratio=4)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_harden_needs_compressed_layers():
    with pytest.raises(ConversionError, match="call convert_ first"):
        harden_(Net())


def test_choices_name_layers_specs_and_reasons():
    model = Net()
    choices = choose_layers(model, spec("wsnet", ratio=4), exclude=["head"], overrides={"stem": {"ratio": 2}})
    assert [c.name for c in choices] == NAMES
    assert all(c.layer is model.get_submodule(c.name) for c in choices)
    assert [c.spec.ratio if c.spec else c.reason for c in choices] == [2, 4, 4, 4, "excluded by 'head'"]
    assert not compressed_layers(model)


def test_an_override_comes_before_what_a_preset_says_of_a_kind():
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3))
    convert_(model, "autosample", ratio=4, options={"afford": 10}, overrides={"1": {"options": {"rate": 0.05}}})
    assert model[1].spec.settings.rate == 0.05
    assert model[0].spec.settings.rate == spec("autosample").for_kind("conv2d").settings.rate
