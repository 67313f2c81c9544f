"""Specs as data: presets, round trips, and errors that tell what to do."""

import copy
import dataclasses
import json
import pickle
from typing import get_args, get_type_hints

import pytest
import yaml

import autosample
from autosample import PRESETS, Spec, spec
from autosample.errors import SpecError
from autosample.sampling import RULES, plan_geometry
from autosample.sampling.fields import Fields

CHANGED = {
    "plain": {},
    "ratio": {"ratio": 7.5},
    "compactness": {"rule": "strided", "options": {"spatial": 8, "channel": 4}},
    "reset to the defaults": {
        "ratio": 8,
        "rule": "interpolated",
        "options": {"start": "strided", "freeze_at": 0.6, "unit": "positions"},
        "by_kind": {},
    },
    "another rule": {"ratio": 8, "rule": "strided"},
    "options left out": {"ratio": 8, "rule": "interpolated", "options": {"unit": None, "start": None, "afford": None}},
    "by kind": {
        "ratio": 8,
        "by_kind": {
            "conv2d": {"signs": "random"},
            "linear": {"ratio": 4, "seed": 3},
            "conv3d": {"rule": "categorical", "options": {"rate": 0.3, "afford": None}},
        },
    },
    "everything": {
        "ratio": 8,
        "layout": "flat",
        "window": 5,
        "denser": 2,
        "grid": 3,
        "rule": "categorical",
        "options": {"candidates": 4, "afford": 0.25, "rate": 0.1, "freeze_at": 0.5, "start": "random"},
        "columns": "table",
        "signs": "random",
        "share": "root",
        "seed": 11,
    },
}


@pytest.mark.parametrize("changes", list(CHANGED))
@pytest.mark.parametrize("preset", list(PRESETS))
def test_round_trips(preset, changes, tmp_path):
    made = spec(preset, **CHANGED[changes])
    assert Spec.from_dict(made.to_dict()) == made
    assert Spec.from_json(made.to_json()) == made
    assert Spec.from_yaml(made.to_yaml()) == made
    # plain data, whichever parser reads it
    assert json.loads(made.to_json()) == yaml.safe_load(made.to_yaml()) == made.to_dict()
    # and the same when it is read as changes to its preset
    path = tmp_path / "spec.yaml"
    path.write_text(made.to_yaml())
    assert spec(path) == spec(str(path)) == spec(made.to_dict()) == spec(made) == made


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_say_only_what_they_change(preset):
    made = spec(preset)
    assert made.preset == preset
    default = Spec()
    for field in dataclasses.fields(Spec):
        expected = PRESETS[preset].get(field.name, getattr(default, field.name))
        if field.name == "options":
            expected = PRESETS[preset].get("options", {})
        if field.name not in ("preset", "by_kind"):
            assert getattr(made, field.name) == expected
    kinds = {kind: {**own, "options": dict(own["options"])} for kind, own in made.by_kind.items()}
    assert kinds == PRESETS[preset].get("by_kind", {})


@pytest.mark.parametrize("rule", list(RULES))
def test_a_rule_by_itself_is_a_preset_too(rule):
    made = spec(rule, ratio=8)
    assert made == Spec(**{"preset": rule, "rule": rule, **PRESETS.get(rule, {}), "ratio": 8})
    assert made.settings == RULES[rule].Options()


def test_equal_specs_are_one_key():
    a, b = spec("autosample", ratio=8), spec("autosample", ratio=8.0)
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b, copy.deepcopy(a), pickle.loads(pickle.dumps(a)), copy.copy(a)}) == 1
    others = {spec(preset, **changes) for preset in PRESETS for changes in CHANGED.values()}
    assert len(others) == len({s.to_json() for s in others})
    assert a.replace(by_kind={"linear": {"seed": 1}}) != a.replace(by_kind={"linear": {"seed": 2}})


def test_nothing_in_a_spec_can_be_changed():
    made = spec("autosample", ratio=8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.ratio = 4
    with pytest.raises(TypeError):
        made.by_kind["conv2d"] = {}
    with pytest.raises(TypeError):
        made.by_kind["linear"]["options"] = {}
    with pytest.raises(TypeError):
        made.by_kind["linear"]["options"]["rate"] = 1.0
    with pytest.raises(TypeError):
        made.options["rate"] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.settings.rate = 0.1
    given = {"rate": 0.25}
    other = made.replace(options=given)
    given["rate"] = 5.0
    assert other.options["rate"] == 0.25
    mine = {"linear": {"seed": 1}}
    kept = made.replace(by_kind=mine)
    mine["linear"]["seed"] = 2
    assert kept.by_kind["linear"]["seed"] == 1
    assert made.replace(ratio=4).ratio == 4
    assert made.ratio == 8


def test_what_is_asked_for_comes_before_a_preset_s_own_kinds():
    preset, rate = spec("autosample"), {"rate": 0.05}
    assert preset.for_kind("linear").settings.rate != preset.for_kind("conv1d").settings.rate
    made = spec("autosample", options=rate)
    for kind in ("linear", "pointwise", "conv1d", "conv2d", "conv3d"):
        for same in (made, Spec.from_dict(made.to_dict()), spec(made.to_dict())):
            assert same.for_kind(kind).settings.rate == 0.05
            assert same.for_kind(kind).settings.start == preset.for_kind(kind).settings.start  # that was not asked for
    both = spec("autosample", options=rate, by_kind={"linear": {"options": {"rate": 0.2}}})
    assert both.for_kind("linear").settings.rate == 0.2
    assert both.for_kind("conv1d").settings.rate == 0.05


def test_options_are_changed_one_by_one():
    made = spec("dfsnet", ratio=8, options={"rate": 0.3})
    assert dict(made.options) == {"unit": "sigmoid", "freeze_at": 0.6, "rate": 0.3}
    assert dict(made.replace(options={"rate": 0.4}).options) == {"unit": "sigmoid", "freeze_at": 0.6, "rate": 0.4}
    assert dict(made.replace(options={"rate": None}).options) == {"unit": "sigmoid", "freeze_at": 0.6}
    assert made.replace(options={"unit": None}).settings.unit == "positions"
    assert made.replace(options={}) == made.replace(options=None) == made
    assert dict(spec({"preset": "dfsnet", "options": {"rate": 1}}, options={"unit": "positions"}).options) == {
        "unit": "positions", "freeze_at": 0.6, "rate": 1,
    }  # fmt: skip


def test_a_new_rule_keeps_the_options_that_it_knows():
    made = spec("dfsnet", options={"rate": 0.3}, by_kind={"linear": {"options": {"unit": "positions", "rate": 0.5}}})
    other = made.replace(rule="categorical")
    assert dict(other.options) == {"freeze_at": 0.6, "rate": 0.3}
    assert dict(other.for_kind("linear").options) == {"freeze_at": 0.6, "rate": 0.5}
    assert dict(made.replace(rule="random").options) == {}
    kinds = spec("random", by_kind={"linear": {"rule": "interpolated", "options": {"unit": "sigmoid"}}})
    assert kinds.replace(rule="strided").for_kind("linear") == kinds.for_kind("linear")
    assert spec("autosample", rule="categorical").for_kind("linear").settings.afford == 0.1


def test_by_kind_changes_one_kind_only():
    made = spec("autosample", ratio=8, by_kind={"conv1d": {"window": 3, "layout": "flat", "ratio": 2}})
    assert made.for_kind("conv2d") == made.replace(by_kind={})
    changed = made.for_kind("conv1d")
    assert (changed.window, changed.layout, changed.ratio, dict(changed.by_kind)) == (3, "flat", 2, {})
    assert plan_geometry(made, (32, 16, 9)).window == 3
    assert plan_geometry(made, (32, 16, 3, 3)).layout == "taps"
    # WSNet's terms for one kind, in place of the ratio
    mixed = spec("wsnet", ratio=8, by_kind={"conv2d": {"options": {"spatial": 3, "channel": 2}}})
    assert (mixed.for_kind("conv2d").ratio, mixed.for_kind("conv2d").settings.spatial) == (None, 3)
    assert mixed.for_kind("conv1d") == spec("wsnet", ratio=8)
    assert plan_geometry(spec("random", ratio=8, by_kind={"conv3d": {"windows": 3}}), (32, 16, 3, 3, 3)).windows == 3


def test_the_papers_terms():
    made = spec("wsnet", options={"spatial": 8, "channel": 8})
    assert (made.ratio, made.settings.spatial, made.settings.channel) == (None, 8, 8)
    # table 1, conv4: 128 filters of 64 x 8, stride 1, an eighth of the channels
    assert plan_geometry(made, (128, 64, 8)).stored == (8 + 127) * 8


def test_one_of_two_alternatives_takes_the_place_of_the_other():
    compact = {"spatial": 4, "channel": 2}
    assert spec(spec("wsnet", ratio=8), options=compact) == spec("wsnet", options=compact)
    assert spec({"preset": "wsnet", "options": compact}, ratio=8) == spec("wsnet", ratio=8)
    assert spec({"preset": "wsnet", "options": {**compact, "strides": "any"}}, ratio=8).settings.strides == "any"
    assert spec("fsnet", window=3).windows is None
    assert spec(spec("fsnet"), window=3) == spec("fsnet", window=3)
    assert spec("hashednet", windows=4).window is None
    # the dense baseline stays dense at every point of a grid
    assert spec("dense", ratio=8) == spec("dense", options={"spatial": 8}) == spec("dense")


def test_none_leaves_a_field_as_it_is():
    assert spec("autosample", ratio=8, seed=None, window=None) == spec("autosample", ratio=8)
    assert spec("fsnet", by_kind={"linear": {"options": None}}).for_kind("linear") == spec("fsnet")
    assert spec({"preset": "fsnet", "ratio": 4, "denser": None, "options": None}, ratio=None) == spec("fsnet", ratio=4)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("wsnett", {}, r'no preset is called "wsnett": did you mean "wsnet"'),
        ("AutoSample", {}, r'did you mean "autosample"\?'),
        ("x", {}, "known: assigned, autosample, categorical, conditioned, dense"),
        ("wsnet", {"ration": 8}, r'a spec has no field "ration": did you mean "ratio"'),
        ("wsnet", {"rule": "interpolate"}, r'rule must name an offset rule, got .*did you mean "interpolated"\?'),
        ("wsnet", {"columns": "learnt"}, r"columns must be one of tile, shuffle, table, got "),
        ("wsnet", {"ratio": 0}, "ratio must be a number above 0, got 0"),
        ("wsnet", {"ratio": -8}, "ratio must be a number above 0, got -8"),
        ("wsnet", {"ratio": float("nan")}, "ratio must be a number above 0, got nan"),
        ("wsnet", {"ratio": float("inf")}, "ratio must be a number above 0, got inf"),
        ("wsnet", {"ratio": True}, "ratio must be a number above 0, got True"),
        ("wsnet", {"ratio": "8"}, "ratio must be a number above 0, got '8'"),
        ("wsnet", {"ratio": 0.125}, r"must be at least 1, got 0.125: use 8$"),
        ("wsnet", {"ratio": 8, "options": {"spatial": 4}}, r"either ratio \(8\) or the options spatial and"),
        ("random", {"windows": 2, "window": 4}, "either windows .* or window"),
        ("random", {"windows": 0}, "windows must be a whole number of at least 1, got 0"),
        ("random", {"windows": 2.0}, "windows must be a whole number"),
        ("random", {"window": -1}, "window must be a whole number of at least 1, got -1"),
        ("random", {"window": 0}, r'window must be .* got 0: leave it out, or write "row" for one row of the kernel'),
        ("random", {"window": "rows"}, "window must be a whole number"),
        ("wsnet", {"options": {"spatial": 2.5}}, "spatial must be a whole number"),
        ("wsnet", {"options": {"strides": "half"}}, r"strides must be one of whole, any, got 'half'"),
        ("autosample", {"grid": -1}, "grid must be a whole number of at least 1"),
        ("autosample", {"grid": 0}, r'grid must be .* got 0: write "window" for disjoint windows'),
        ("categorical", {"options": {"candidates": 1}}, "candidates must be a whole number of at least 2"),
        ("autosample", {"options": {"rate": 0}}, "rate must be a number above 0, got 0"),
        ("autosample", {"options": {"unit": "rows"}}, "unit must be one of positions, sigmoid, logit, got 'rows'"),
        ("autosample", {"options": {"start": 1}}, "start must be one of strided, random, got 1"),
        ("autosample", {"options": {"ratee": 1}}, r'rule interpolated has no option "ratee": did you mean "rate"'),
        ("random", {"options": {"rate": 1}}, r'rule random has no option "rate": it has none'),
        ("random", {"options": 3}, r"options must be a mapping of the rule's settings, got 3: write"),
        ("autosample", {"options": 3}, "options must be a mapping"),
        ("autosample", {"options": False}, "options must be a mapping"),
        ("wsnet", {"rule": ["random"]}, r"rule must name an offset rule, got \['random'\]"),
        ("autosample", {"share": "rot"}, r'share must be one of even, root, got .rot.: did you mean "root"'),
        ("autosample", {"options": {"afford": -1}}, "afford must be a number of at least 0, got -1"),
        ("autosample", {"options": {"afford": "all"}}, "afford must be a number of at least 0, got 'all'"),
        ("autosample", {"options": {"freeze_at": 1.5}}, "freeze_at must be between 0 and 1, got 1.5"),
        ("autosample", {"options": {"freeze_at": float("nan")}}, "freeze_at must be between 0 and 1"),
        ("wsnet", {"denser": 0}, "denser must be a whole number of at least 1, got 0"),
        ("wsnet", {"seed": 1.5}, "seed must be a whole number of at least 0, got 1.5"),
        ("wsnet", {"by_kind": 3}, "by_kind must map layer kinds to fields, got 3"),
        (
            "wsnet",
            {"by_kind": {"conv4d": {}}},
            r'a key of by_kind must be one of .*got \'conv4d\': did you mean "conv',
        ),
        ("wsnet", {"by_kind": {"conv2d": 8}}, "by_kind must map conv2d to fields, got 8"),
        ("wsnet", {"by_kind": {"conv2d": {"by_kind": {}}}}, "by_kind must map conv2d to fields"),
        ("wsnet", {"by_kind": {"conv2d": {"rati": 8}}}, r'no field "rati": did you mean "ratio"'),
        ("wsnet", {"by_kind": {"conv2d": {"ratio": 0}}}, "ratio must be a number above 0"),
        ("wsnet", {"by_kind": {"conv2d": {"options": {"rate": 1}}}}, r'rule strided has no option "rate"'),
        ("wsnet", {"by_kind": {"conv2d": {"options": 3}}}, "options must be a mapping"),
        (["wsnet"], {}, "no preset is called"),
    ],
)
def test_mistakes(preset, changes, message):
    with pytest.raises(SpecError, match=message) as caught:
        spec(preset, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: value}, rf'"{name}" is an option of the rule, .*: write options={{"{name}": ')
            for name, value in {
                "rate": 0.1, "freeze_at": 0.6, "afford": 0.1, "start": "random", "unit": "sigmoid", "candidates": 8,
                "spatial": 8, "channel": 4, "strides": "any", "blocks": 2, "overlap": 4,
            }.items()
        ),
        ({"blocks": 2}, r'the spec: write options=\{"blocks": 2\}$'),
        ({"start": "random"}, r'the spec: write options=\{"start": "random"\}$'),
        ({"bits": 4}, "pass planned_bits=4 to convert_, then call quantize_"),
        ({"execution": "reuse"}, r'use the context manager autosample.nn.execution\("reuse"\)'),
        ({"columns": "learned"}, '"columns: learned" was removed: use "shuffle", or .*; see docs/research-log.md'),
        ({"gains": "filter"}, '"gains" was removed: see docs/research-log.md'),
        ({"scale_gradient": "mean"}, '"scale_gradient" was removed: see docs/research-log.md'),
        ({"kernel": "gaussian"}, '"kernel" was removed: neighbours are mixed linearly'),
        ({"radius": 2}, '"radius" was removed: neighbours are mixed linearly'),
        ({"along": "strided"}, '"along" was removed: .* preset "wsnet" uses the rule "strided"'),
        ({"across": "random"}, '"across" was removed: '),
        ({"spread": 0.5}, '"spread" was removed: '),
        ({"rule": "separable"}, '"separable" was removed: preset "wsnet" now uses the rule "strided"'),
        ({"rule": "gumbel"}, '"gumbel" was removed: use "categorical"'),
    ],
    ids=str,
)  # fmt: skip
def test_what_was_a_field_before_tells_where_it_went(changes, message):
    whole = {"preset": "autosample", **changes}
    by_kind = {"by_kind": {"linear": changes}}
    for make in (
        lambda: spec("autosample", **changes),
        lambda: spec(whole),
        lambda: Spec.from_dict(whole),
        lambda: Spec(**changes),
        lambda: spec("wsnet", ratio=8).replace(**changes),
        lambda: spec("autosample", **by_kind),
    ):
        with pytest.raises(SpecError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("parse", [Spec.from_json, Spec.from_yaml])
@pytest.mark.parametrize("text", ["{", "[1, 2]", "8", '{"ratio": -1}', '{"rato": 8}'])
def test_unusable_text(parse, text):
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "readable YAML"), ("a: [", "readable YAML"), ("wsnet", "a mapping"), ("", "a mapping")]
)
def test_unusable_files(tmp_path, text, message):
    path = tmp_path / "summary.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecError, match=message) as caught:
        spec(path)
    assert str(path) in str(caught.value)


def test_a_yaml_file_and_changes_to_it(tmp_path):
    path = tmp_path / "summary.yaml"
    path.write_text("preset: wsnet\nratio: 16\ndenser: 2\n")
    assert spec(path) == spec("wsnet", ratio=16, denser=2)
    assert spec(path, ratio=4) == spec("wsnet", ratio=4, denser=2)
    path.write_text("ratio: 4\n")
    assert spec(path) == spec("autosample", ratio=4)


def test_keyword_arguments_are_typed_as_the_fields():
    """Editors complete and check the arguments of `spec` and `convert_` by `Fields`."""
    wanted, told = get_type_hints(Spec), get_type_hints(Fields)
    assert ["preset", *told] == [field.name for field in dataclasses.fields(Spec)]
    assert {**told, "options": None} == {**{name: wanted[name] for name in told}, "options": None}
    assert get_args(get_type_hints(autosample.convert_)["changes"]) == (Fields,)
