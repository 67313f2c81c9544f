"""What shapes a model, as data: built, written down, and read from what a training keeps."""

import json

import pytest
import torch

from autosample.errors import ConfigError, SpecError
from autosample.model.recipe import FLAT, Recipe
from autosample.nn import compressed_layers

RECIPES = [
    Recipe(model="digitnet"),
    Recipe(model="digitnet", in_chans=3, spec="dense", model_args={"norm": False}),
    Recipe(model="test_resnet", num_classes=7, spec={"preset": "wsnet", "ratio": 4}, exclude=["layer4"]),
    Recipe(
        model="digitnet",
        spec={"preset": "autosample", "ratio": 8, "options": {"afford": 10, "rate": 0.1}},
        include=["stages"],
        overrides={"stages.1": {"options": {"freeze_at": 0.2}}},
        planned_bits=4,
    ),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_plain_data(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    arguments = json.loads(json.dumps(recipe.arguments()))
    assert tuple(arguments) == FLAT
    assert Recipe.of({**arguments, "lr": 1e-3, "seed": 0}) == recipe


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_it_builds_the_model(recipe):
    built, bare = recipe.build(), recipe.bare()
    layers = compressed_layers(built)
    assert bool(layers) == (recipe.preset != "dense")
    assert not compressed_layers(bare)
    assert all(layer.spec.preset == recipe.preset for layer in layers.values())
    x = torch.randn(2, recipe.in_chans or (3 if recipe.model == "test_resnet" else 1), 16, 16)
    assert built.eval()(x).shape == bare.eval()(x).shape == (2, recipe.num_classes)


def test_a_warm_start_fits_the_weights():
    layers = compressed_layers(Recipe(model="digitnet", spec={"preset": "random", "ratio": 4}).build(warm_start=True))
    assert all(layer.fit_error is not None for layer in layers.values())


def test_planned_bits_reach_the_conversion():
    with pytest.raises(SpecError, match="planned_bits must be a whole number from 2 to 32, got 1"):
        Recipe(model="digitnet", spec={"preset": "random", "ratio": 4}, planned_bits=1).build()


def test_what_version_010_wrote():
    old = {
        "model": "digitnet", "num_classes": 10, "in_chans": 1, "model_args": None, "summary": "autosample",
        "ratio": 8, "summary_args": {"rate": 0.1, "afford": 10, "bits": 4, "execution": "reuse", "window": 0},
        "include": None, "exclude": ["head"], "warm_start": False, "lr": 1e-3,
        "overrides": {"stages.1": {"freeze_at": 0.2}, "stages.2": {"preset": "wsnet", "spatial": 4}, "stages.3": None},
    }  # fmt: skip
    assert Recipe.of(old) == Recipe(
        model="digitnet",
        in_chans=1,
        spec={"preset": "autosample", "ratio": 8, "options": {"rate": 0.1, "afford": 10}, "window": "row"},
        exclude=["head"],
        overrides={
            "stages.1": {"options": {"freeze_at": 0.2}},
            "stages.2": {"preset": "wsnet", "options": {"spatial": 4}},
            "stages.3": None,
        },
        planned_bits=4,
    )
    assert Recipe.of({"model": "m5", "summary": "dense"}) == Recipe(model="m5", spec="dense")


def test_the_command_line_names_options_with_dots():
    given = {"model": "m5", "spec_args": {"options": {"start": "random"}, "options.rate": 0.1, "windows": 2}}
    assert Recipe.of(given).spec == {
        "preset": "autosample",
        "options": {"start": "random", "rate": 0.1},
        "windows": 2,
    }


def test_mistakes():
    with pytest.raises(ConfigError, match='a recipe has no field "modle": did you mean "model"'):
        Recipe.from_dict({"modle": "m5"})
    with pytest.raises(ConfigError, match="a recipe must name a model"):
        Recipe.of({"spec": "wsnet"})
    with pytest.raises(ConfigError, match='no model is called "m55"'):
        Recipe(model="m55").bare()
