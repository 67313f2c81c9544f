"""Every configuration is found by its name, and parses, alone or with what it is meant to be composed with."""

import re

import pytest
import yaml

from autosample import spec
from autosample.errors import ConfigError
from autosample.model.recipe import Recipe
from autosample.system.configs import FOLDER, find, names, read

LARGE = re.compile("imagenet|efficientnet|audioset")  # nets that take long to build
BEFORE = {"spec": ("experiment/digits",), "model": ("data/cifar10",)}


def test_a_config_is_found_by_its_name(tmp_path, monkeypatch):
    assert {"experiment/digits", "ablation/quick", "spec/wsnet"} <= set(names())
    assert all(find(name) == FOLDER / f"{name}.yaml" for name in names())
    assert find("ablation/quick.yaml") == find("ablation/quick", "ablation", "research")
    assert {name.partition("/")[0] for name in names("ablation", "research")} == {"ablation", "research"}
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "experiment" / "digits"
    own.parent.mkdir()
    own.write_text("name: mine")
    assert read("experiment/digits") == read(own) == {"name": "mine"}  # a file is taken before a name


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("experiment/digit", 'did you mean "experiment/digits"'),
        ("quik", 'did you mean "ablation/quick"'),
        ("configs/experiment/digits.yaml", 'did you mean "experiment/digits"'),
        ("autosample/configs/summary/wsnet.yaml", 'did you mean "spec/wsnet"'),
        ("wsnet_s8c4", 'did you mean "spec/wsnet_s8c4"'),
        ("digits", 'did you mean "data/digits" or "experiment/digits"'),
        ("zzzzz", "names begin with ablation/, data/, .*, such as ablation/cifar10_5conv"),
    ],
)
def test_a_wrong_name_names_the_nearest(tmp_path, monkeypatch, wrong, near):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f'called "{wrong}": {near}') as error:
        find(wrong)
    assert "\n" not in str(error.value)


def test_only_kinds_that_fit_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match='did you mean "ablation/mnist"'):
        find("experiment/mnist", "ablation", "research")


@pytest.mark.parametrize("name", names("data", "experiment", "model", "quantize", "recipe", "spec", "trainer"))
@pytest.mark.every(3)
def test_it_parses_and_prints(autosample, name):
    kind = name.split("/")[0]
    given = (f"--config={part}" for part in (*BEFORE.get(kind, ()), name))
    code, out, err = autosample("fit", *given, "--print_config")
    assert (code, err) == (0, "")
    printed = yaml.safe_load(out)
    mine = read(name)
    for key, value in (mine.get("model") or {}).items():
        assert printed["model"][key] == value
    if "data" in mine:
        assert printed["data"]["class_path"] == f"autosample.data.{mine['data']['class_path']}"
        assert mine["data"]["init_args"].items() <= printed["data"]["init_args"].items()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if LARGE.search(n) else ()) for n in names("experiment")],
)
def test_the_model_of_an_experiment_can_be_built(name):
    from autosample.nn import compressed_layers
    from autosample.training import Classifier

    model = Classifier(**read(name)["model"])
    assert compressed_layers(model)
    assert model.size_report().ratio > 1.5


@pytest.mark.parametrize("name", names("sweep"))
@pytest.mark.every(3)
def test_a_sweep_names_options_that_there_are(autosample, name):
    sweep = read(name)
    command = sweep["command"]
    assert command[:4] == ["${env}", "python", "-m", "${program}"]
    assert command[-1] == "${args}"
    for which in (0, -1):
        settings = [f"--{option}={choice['values'][which]}" for option, choice in sweep["parameters"].items()]
        code, out, err = autosample(*command[4:-1], *settings, "--print_config")
        assert (code, err) == (0, "")
        assert spec(Recipe.of(yaml.safe_load(out)["model"]).spec).sized
