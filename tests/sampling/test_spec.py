"""Specs as data: presets, round trips, and errors that tell what to do."""

import copy
import dataclasses
import json
import pickle

import pytest
import yaml

from autosample import PRESETS, Spec, spec
from autosample.errors import SpecError
from autosample.sampling import plan_geometry

CHANGED = {
    "plain": {},
    "ratio": {"ratio": 7.5},
    "compactness": {"spatial": 8, "channel": 4},
    "reset to the class default": {"ratio": 8, "rule": "strided", "start": "strided", "freeze_at": 0.6, "by_kind": {}},
    "by kind": {"ratio": 8, "by_kind": {"conv2d": {"signs": "random"}, "linear": {"ratio": 4, "seed": 3}}},
    "everything": {
        "ratio": 8,
        "layout": "flat",
        "window": 5,
        "denser": 2,
        "grid": 3,
        "kernel": "gaussian",
        "radius": 2,
        "candidates": 4,
        "along": "interpolated",
        "across": "strided",
        "spread": 0.5,
        "columns": "learned",
        "signs": "random",
        "gains": "window",
        "scale_gradient": "sqrt",
        "share": "root",
        "afford": 0.25,
        "bits": 4,
        "rate": 0.1,
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
        if field.name not in ("preset", "by_kind"):
            assert getattr(made, field.name) == expected
    assert {kind: dict(fields) for kind, fields in made.by_kind.items()} == PRESETS[preset].get("by_kind", {})


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
        made.by_kind["linear"]["rate"] = 1.0
    mine = {"linear": {"seed": 1}}
    kept = made.replace(by_kind=mine)
    mine["linear"]["seed"] = 2
    assert kept.by_kind["linear"]["seed"] == 1
    assert made.replace(ratio=4).ratio == 4
    assert made.ratio == 8


def test_what_is_asked_for_comes_before_a_preset_s_own_kinds():
    assert spec("autosample").for_kind("linear").rate != spec("autosample").for_kind("conv1d").rate
    for kind in ("linear", "conv1d", "conv2d"):
        assert spec("autosample", rate=0.05).for_kind(kind).rate == 0.05
        assert Spec.from_dict(spec("autosample", rate=0.05).to_dict()).for_kind(kind).rate == 0.05
        assert spec(spec("autosample", rate=0.05).to_dict()).for_kind(kind).rate == 0.05
    both = spec("autosample", rate=0.05, by_kind={"linear": {"rate": 0.2}})
    assert both.for_kind("linear").rate == 0.2


def test_by_kind_changes_one_kind_only():
    made = spec("autosample", ratio=8, by_kind={"conv1d": {"window": 3, "layout": "flat", "ratio": 2}})
    assert made.for_kind("conv2d") == made.replace(by_kind={})
    changed = made.for_kind("conv1d")
    assert (changed.window, changed.layout, changed.ratio, dict(changed.by_kind)) == (3, "flat", 2, {})
    assert plan_geometry(made, (32, 16, 9)).window == 3
    assert plan_geometry(made, (32, 16, 3, 3)).layout == "taps"
    # WSNet's terms for one kind, in place of the ratio
    mixed = spec("wsnet", ratio=8, by_kind={"conv2d": {"spatial": 3, "channel": 2}})
    assert (mixed.for_kind("conv2d").ratio, mixed.for_kind("conv2d").spatial) == (None, 3)


def test_the_papers_terms():
    made = spec("wsnet", spatial=8, channel=8)
    assert (made.ratio, made.spatial, made.channel) == (None, 8, 8)
    # table 1, conv4: 128 filters of 64 x 8, stride 1, an eighth of the channels
    assert plan_geometry(made, (128, 64, 8)).stored == (8 + 127) * 8


def test_one_of_two_alternatives_takes_the_place_of_the_other():
    assert spec(spec("wsnet", ratio=8), spatial=4) == spec("wsnet", spatial=4)
    assert spec({"preset": "wsnet", "spatial": 4, "channel": 2}, ratio=8) == spec("wsnet", ratio=8)
    assert spec("fsnet", window=3).windows is None
    assert spec(spec("fsnet"), window=3) == spec("fsnet", window=3)
    assert spec("hashednet", windows=4).window is None
    # the dense baseline stays dense at every point of a grid
    assert spec("dense", ratio=8) == spec("dense", spatial=8) == spec("dense")


def test_none_leaves_a_field_as_it_is():
    assert spec("autosample", ratio=8, seed=None, window=None) == spec("autosample", ratio=8)
    assert spec({"preset": "fsnet", "ratio": 4, "rate": None}, ratio=None) == spec("fsnet", ratio=4)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("wsnett", {}, r'no preset is called "wsnett": did you mean "wsnet"'),
        ("AutoSample", {}, r'did you mean "autosample"\?'),
        ("x", {}, "known: autosample, dense, dfsnet"),
        ("wsnet", {"ration": 8}, r'a spec has no field "ration": did you mean "ratio"'),
        ("wsnet", {"rule": "interpolate"}, r'rule must name an offset rule, got .*did you mean "interpolated"\?'),
        ("wsnet", {"columns": "learnt"}, r'columns must be one of tile, shuffle, learned, got .*"learned"'),
        ("wsnet", {"ratio": 0}, "ratio must be a number above 0, got 0"),
        ("wsnet", {"ratio": -8}, "ratio must be a number above 0, got -8"),
        ("wsnet", {"ratio": float("nan")}, "ratio must be a number above 0, got nan"),
        ("wsnet", {"ratio": float("inf")}, "ratio must be a number above 0, got inf"),
        ("wsnet", {"ratio": True}, "ratio must be a number above 0, got True"),
        ("wsnet", {"ratio": "8"}, "ratio must be a number above 0, got '8'"),
        ("wsnet", {"ratio": 0.125}, r"must be at least 1, got 0.125: use 8$"),
        ("wsnet", {"ratio": 8, "spatial": 4}, "either ratio or spatial and channel"),
        ("random", {"windows": 2, "window": 4}, "either windows .* or window"),
        ("random", {"windows": 0}, "windows must be a whole number of at least 1, got 0"),
        ("random", {"windows": 2.0}, "windows must be a whole number"),
        ("random", {"window": -1}, "window must be a whole number of at least 0, got -1"),
        ("wsnet", {"spatial": 2.5}, "spatial must be a whole number"),
        ("autosample", {"grid": -1}, "grid must be a whole number of at least 0"),
        ("autosample", {"candidates": 1}, "candidates must be a whole number of at least 2"),
        ("autosample", {"rate": 0}, "rate must be above 0"),
        ("autosample", {"share": "rot"}, r'share must be one of even, root, got .rot.: did you mean "root"'),
        ("autosample", {"afford": -1}, "afford must be a share of at least 0, got -1"),
        ("autosample", {"afford": "all"}, "afford must be a share of at least 0, got 'all'"),
        ("autosample", {"bits": 1}, "bits must be a whole number from 2 to 32, got 1"),
        ("autosample", {"bits": 64}, "bits must be a whole number from 2 to 32, got 64"),
        ("autosample", {"freeze_at": 1.5}, "freeze_at must lie between 0 and 1, got 1.5"),
        ("autosample", {"spread": float("nan")}, "spread must lie between 0 and 1"),
        ("wsnet", {"along": "separable"}, "along must be a rule that stands alone"),
        ("wsnet", {"by_kind": 3}, "by_kind must map layer kinds to fields, got 3"),
        ("wsnet", {"by_kind": {"conv3d": {}}}, r'by_kind knows the kinds .*got \'conv3d\': did you mean "conv'),
        ("wsnet", {"by_kind": {"conv2d": 8}}, "by_kind must map conv2d to fields, got 8"),
        ("wsnet", {"by_kind": {"conv2d": {"by_kind": {}}}}, "by_kind must map conv2d to fields"),
        ("wsnet", {"by_kind": {"conv2d": {"rati": 8}}}, r'no field "rati": did you mean "ratio"'),
        ("wsnet", {"by_kind": {"conv2d": {"ratio": 0}}}, "ratio must be a number above 0"),
        (["wsnet"], {}, "no preset is called"),
    ],
)
def test_mistakes(preset, changes, message):
    with pytest.raises(SpecError, match=message) as caught:
        spec(preset, **changes)
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
