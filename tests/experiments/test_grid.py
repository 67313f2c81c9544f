import dataclasses

import pytest

import autosample
from autosample.errors import AutosampleError
from autosample.experiments.attempt import pack_cell, unpack_cell
from autosample.experiments.parse import read_grid
from autosample.sampling.presets import PRESETS


def test_cells_are_the_product_with_dense_at_one_size(grid):
    made = grid(presets=["dense", "random", "wsnet"], ratios=[8, 32], seeds=[0, 3])
    assert len(made.cells) == 2 * (1 + 2 * 2)
    assert [c.seed for c in made.cells] == [0] * 5 + [3] * 5
    assert len({c.id for c in made.cells}) == len(made.cells)
    assert {str(c.size) for c in made.cells if c.preset == "wsnet"} == {"8x a layer", "32x a layer"}
    assert {c.size for c in made.cells if c.preset == "dense"} == {None}


def test_data_models_folds_and_seeds_multiply(grid):
    data = [{"class": "ESC10"}, {"class": "UrbanSound8K"}]
    made = grid(data=data, model=["soundnet8", "m5"], folds=[1, 2, 3], seeds=1)
    assert len(made.cells) == 2 * 2 * 3 * 2
    assert {c.fold for c in made.cells} == {1, 2, 3}


def test_the_identity_tells_the_spec_by_its_values(grid):
    options = {"rate": 0.3, "afford": 0.1}
    cell = grid(presets=["dense", {"preset": "autosample", "options": options}]).cells[1]
    told, real = cell.identity["recipe"]["spec"], autosample.spec("autosample", options=options)
    assert told["options"] == {"rate": 0.3, "afford": 0.1, "start": "random"}  # freeze_at is at its default
    assert (told["rule"], told["share"]) == (real.rule, real.share)
    assert told["by_kind"] == {"linear": {"options": {"start": "strided"}}}
    assert "ratio" not in told
    # what is written out, although it is the default, changes nothing
    written = {"preset": "autosample", "share": "root", "grid": 1, "options": options | {"freeze_at": 0.6}}
    assert grid(presets=["dense", written]).cells[1].id == cell.id


def test_the_identity_is_what_decides_and_nothing_else(grid):
    cell = grid().cells[1]
    same = (
        grid(name="other", title="x").cells[1],
        grid(ratios=[8.0]).cells[1],
        grid(presets=["dense", {"preset": "random", "label": "r"}]).cells[1],
        grid(data={"class": "Digits", "batch_size": 256, "root": "/elsewhere"}).cells[1],
        unpack_cell(pack_cell(cell)),
    )
    assert {c.id for c in same} == {cell.id}
    other = (
        grid(ratios=[9]).cells[1],
        grid(net_ratios=[8], ratios=None).cells[1],
        grid(train={"epochs": 2}).cells[1],
        grid(holdout=0.2).cells[1],
        grid(latency=True).cells[1],
        grid(presets=["dense", {"preset": "random", "windows": 2}]).cells[1],
        grid(presets=["dense", {"preset": "random", "seed": 0}]).cells[1],
        grid(model={"name": "digitnet", "in_chans": 1, "num_classes": 10, "exclude": ["stages.1"]}).cells[1],
        grid(presets=["dense", {"preset": "random", "quantize": {}}]).cells[1],
        grid(presets=["dense", {"preset": "random", "quantize": {"bits": 4}}]).cells[1],
        dataclasses.replace(cell, seed=1),
    )
    assert len({cell.id, *(c.id for c in other)}) == 1 + len(other)


def test_planned_bits_are_those_of_the_quantisation_unless_given(grid):
    quantize = {"bits": 4}
    entries = [
        "random",
        {"preset": "random", "planned_bits": 4, "label": "planned"},
        {"preset": "random", "quantize": quantize},
        {"preset": "random", "planned_bits": 32, "quantize": quantize, "label": "not planned"},
        {"preset": "narrow", "quantize": quantize},
    ]
    made = grid(presets=entries, ratios=None, net_ratios=[8], seeds=1)
    assert [cell.recipe.planned_bits for cell in made.cells] == [32, 4, 4, 32, 32]
    assert len({cell.id for cell in made.cells}) == 5


def test_a_preset_that_changes_leaves_its_old_records_behind(grid, monkeypatch):
    sizes = ({"ratios": [8]}, {"ratios": [], "like": [{"preset": "wsnet", "ratio": 8}]})
    before = [grid(presets=["random"], **size).cells[0].id for size in sizes]
    for preset in ("random", "wsnet"):
        monkeypatch.setitem(PRESETS, preset, {**PRESETS[preset], "windows": 3})
    after = [grid(presets=["random"], **size).cells[0].id for size in sizes]
    assert len({*before, *after}) == 4


def test_a_preset_or_rule_with_a_new_row_works_in_a_grid(grid, monkeypatch):
    monkeypatch.setitem(PRESETS, "pairs", {"rule": "random", "windows": 2})
    pairs, rule = grid(presets=["pairs", "assigned"], seeds=1).cells
    assert pairs.identity["recipe"]["spec"] == {"preset": "pairs", "rule": "random", "windows": 2}
    assert rule.identity["recipe"]["spec"] == {"preset": "assigned", "rule": "assigned"}


def test_only(grid):
    made = grid()
    assert {c.label for c in made.only(["rand*"]).cells} == {"random"}
    assert {c.seed for c in made.only(["*seed1*"]).cells} == {1}
    called = grid(presets=["random", {"preset": "random", "label": "by chance", "windows": 2}])
    assert {c.label for c in called.only(["*random*"]).cells} == {"random"}  # although the other's name holds it too
    with pytest.raises(AutosampleError, match='"randon": did you mean "random"'):
        made.only(["randon"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presests": []}, 'a grid has no key "presests": did you mean "presets"'),
        ({"presets": ["randon"]}, 'no preset is called "randon": did you mean "random"'),
        ({"presets": [{"preset": "random", "windws": 2}]}, 'has no key "windws": did you mean "window'),
        ({"presets": [{"preset": "random", "windows": 0}]}, "windows must be a whole number of at least 1"),
        ({"presets": [{"preset": "random", "ratio": 4}]}, "sizes are keys of the grid, got ratio"),
        ({"presets": [{"preset": "wsnet", "options": {"spatial": 4}}]}, "sizes are keys of the grid, got spatial"),
        ({"presets": [{"preset": "autosample", "rate": 0.1}]}, '"rate" is an option .*options={"rate": 0.1}'),
        ({"presets": [{"preset": "random", "gains": "filter"}]}, '"gains" was removed: see docs/research-log.md'),
        ({"presets": [{"preset": "random", "bits": 4}]}, "pass planned_bits=4"),
        ({"presets": [{"preset": "autosample", "rule": "gumbel"}]}, '"gumbel" was removed: use "categorical"'),
        ({"presets": [{"preset": "random", "quantize": {"gains": "int8"}}]}, '"gains" was removed'),
        ({"ratios": [], "like": [{"preset": "wsnet", "spatial": 4}]}, '"spatial" is an option of the rule'),
        ({"presets": [{"preset": "dense", "windows": 4}]}, "dense has no fields to change"),
        ({"presets": ["narrow"]}, "narrow has no layer ratio"),
        ({"presets": [{"preset": "random", "quantize": 8}]}, "quantize must be a mapping"),
        ({"presets": [{"preset": "random", "quantize": {"bit": 8}}]}, 'no key "bit": did you mean "bits"'),
        ({"presets": [{"preset": "random", "quantize": {"bits": 9}}]}, "from 2 to 8, got 9"),
        ({"presets": [{"preset": "random", "quantize": {"start": 2}}]}, "start must be between 0 and 1"),
        ({"presets": [{"preset": "random", "quantize": {}}] * 2}, '"random 8 bits" and .* are the same run'),
        ({"presets": ["random", "random"]}, "are the same run"),
        ({"presets": ["random", {"preset": "random", "windows": 3}]}, 'two methods have the label "random"'),
        ({"presets": None}, "a grid needs presets"),
        ({"ratios": [], "like": [{"ratio": 16}]}, "like needs a preset, got {'ratio': 16}"),
        ({"data": {"class": "Digitz"}}, 'data must name a class, got "Digitz": did you mean "Digits"'),
        ({"data": {"class": "Digits", "batch_szie": 8}}, 'no option "batch_szie": did you mean "batch_size"'),
        ({"data": {"class": "Digits", "batch_size": 0}}, "batch_size must be at least 1"),
        ({"data": {"class": "Digits", "seed": 0}}, "data has no key seed, got 0: use seeds of the grid"),
        ({"data": "Digits"}, "data must name a class"),
        ({"folds": [1]}, 'Digits has no option "fold"'),
        ({"model": "digitnett"}, 'no model is called "digitnett": did you mean "digitnet"'),
        ({"model": {"name": "digitnet", "agrs": {}}}, 'model has no key "agrs": did you mean "args"'),
        ({"model": {"name": "digitnet", "args": {"depth": 3}}}, "does not take depth"),
        ({"train": {"warm_start": True}}, "dense needs a trained dense net .* set teacher_epochs in train"),
        ({"train": {"teacher_epochs": 0}}, "teacher_epochs must be at least 1"),
        ({"train": {"epohcs": 3}}, 'train has no key "epohcs": did you mean "epochs"'),
        ({"train": {"epochs": 0}}, "epochs must be at least 1, got 0"),
        ({"train": {"optimizer": "adamww"}}, 'no optimizer of timm is called "adamww"'),
        ({"ratios": [0.5]}, "ratios must be numbers of at least 1, got 0.5"),
        ({"ratios": ["x"]}, "ratios must be numbers"),
        ({"ratios": None}, "random needs a size, got none"),
        ({"like": [{"preset": "wsnt"}]}, 'no preset is called "wsnt"'),
        ({"seeds": 0}, "seeds must be a count"),
        ({"seeds": "three"}, "seeds must be a count"),
        ({"holdout": 1}, r"holdout must be a share in \[0, 1\)"),
        ({"test": False}, "test: false needs held-out data"),
        ({"latency": 3}, "latency must be true or false"),
        ({"compare": "autosampel"}, 'compare must be labels of presets, got "autosampel"'),
    ],
)  # fmt: skip
def test_mistakes_name_the_nearest(grid, changes, message):
    with pytest.raises(AutosampleError, match=message) as caught:
        grid(**changes)
    assert "\n" not in str(caught.value)


def test_files(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {class: ESC10, root: data}\nmodel: m5\npresets: [dense]\nfolds: [2]\n")
    made = read_grid(path, root="/data")
    assert made.name == made.title == "mine"
    assert made.cells[0].data_args == {"root": "/data"}
    for text, message in (("a: [", "valid YAML"), ("- a", "must hold KEY: VALUE"), ("", "must hold KEY: VALUE")):
        path.write_text(text)
        with pytest.raises(AutosampleError, match=message):
            read_grid(path)
    with pytest.raises(AutosampleError, match='did you mean "research/digits_gains"'):
        read_grid("research/digits_gain")
