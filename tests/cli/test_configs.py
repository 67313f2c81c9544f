"""Every file in configs/ parses, alone or with what it is meant to be composed with."""

from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "autosample" / "configs"
PARTS = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
BEFORE = {"trainer": (), "summary": ("experiment/digits.yaml",), "model": ("data/cifar10.yaml",), "data": ()}


@pytest.mark.parametrize("name", [part for part in PARTS if not part.startswith(("sweep/", "ablation/", "research/"))])
def test_it_parses_and_prints(autosample, name):
    kind = name.split("/")[0]
    files = [CONFIGS / part for part in (*BEFORE.get(kind, ()), name)]
    code, out, err = autosample("fit", *(f"--config={file}" for file in files), "--print_config")
    assert (code, err) == (0, "")
    printed = yaml.safe_load(out)
    mine = yaml.safe_load((CONFIGS / name).read_text())
    for key, value in (mine.get("model") or {}).items():
        assert printed["model"][key] == value
    if "data" in mine:
        assert printed["data"]["class_path"] == f"autosample.data.{mine['data']['class_path']}"
        assert mine["data"]["init_args"].items() <= printed["data"]["init_args"].items()


@pytest.mark.parametrize("name", [part for part in PARTS if part.startswith("experiment/")])
def test_the_model_of_an_experiment_can_be_built(name):
    from autosample.model.convert import summary_layers
    from autosample.training import Classifier

    model = Classifier(**yaml.safe_load((CONFIGS / name).read_text())["model"])
    assert summary_layers(model)
    assert model.size_report().ratio > 1.5


@pytest.mark.parametrize("name", [part for part in PARTS if part.startswith("sweep/")])
def test_a_sweep_names_options_that_there_are(autosample, name):
    sweep = yaml.safe_load((CONFIGS / name).read_text())
    settings = [f"--{option}={choice['values'][0]}" for option, choice in sweep["parameters"].items()]
    command = [
        part.replace("=autosample/configs/", f"={CONFIGS}/").replace("=configs/", f"={CONFIGS}/")
        for part in sweep["command"]
    ]
    assert command[:4] == ["${env}", "python", "-m", "${program}"]
    assert command[-1] == "${args}"
    code, _, err = autosample(*command[4:-1], *settings, "--print_config")
    assert (code, err) == (0, "")
