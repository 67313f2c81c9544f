"""Specs that version 0.1.0 wrote into files, in the present form."""

import pytest

from autosample import PRESETS, Spec, spec
from autosample.sampling.upgrade import upgraded

# rule of the layer's preset, old data, the same in the present form
OLD = [
    ("interpolated", {"preset": "autosample", "ratio": 8, "rate": 0.1}, {"ratio": 8, "options": {"rate": 0.1}}),
    ("strided", {"window": 0, "grid": 0}, {"window": "row", "grid": "window"}),
    ("strided", {"spatial": 8, "channel": 4}, {"options": {"spatial": 8, "channel": 4}}),
    ("strided", {"columns": "learned"}, {"columns": "table"}),
    ("strided", {"columns": "learned", "options": {}}, {"columns": "table", "options": {}}),
    ("strided", {"strides": "any", "ratio": 3}, {"ratio": 3, "options": {"strides": "any"}}),
    ("random", {"spatial": 8, "channel": 4}, {"ratio": 32}),
    ("random", {"bits": 4, "execution": "reuse", "gains": "filter", "scale_gradient": "mean"}, {}),
    ("random", {"rule": "separable", "along": "strided", "spread": 0, "across": "random"}, {"rule": "strided"}),
    ("random", {"rule": "gumbel", "candidates": 4, "radius": 1}, {"rule": "categorical", "options": {"candidates": 4}}),
    ("interpolated", {"kernel": "gaussian", "radius": 3, "unit": "sigmoid"}, {"options": {"unit": "logit"}}),
    ("strided", {"rule": "indexed", "rate": 0.9}, {"rule": "indexed", "options": {"rate": 0.9, "unit": "logit"}}),
    ("strided", {"rate": 0.1, "start": "random", "candidates": 8}, {}),
    ("interpolated",
     {"by_kind": {"linear": {"rate": 0.2, "window": 0}, "conv2d": {"rule": "assigned", "start": "random"}}},
     {"by_kind": {"linear": {"window": "row", "options": {"rate": 0.2}},
                  "conv2d": {"rule": "assigned", "options": {"start": "random"}}}}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "old", "new"), OLD, ids=str)
def test_old_fields_are_where_they_belong_now(rule, old, new):
    got = upgraded(old, rule)
    assert {name: value for name, value in got.items() if name != "preset"} == new
    Spec.from_dict({"rule": rule, **got})
    assert upgraded(got, rule) == got


@pytest.mark.parametrize("preset", list(PRESETS))
def test_present_specs_are_left_alone(preset):
    made = spec(preset, ratio=8)
    assert Spec.from_dict(upgraded(made.to_dict(), made.rule)) == made
