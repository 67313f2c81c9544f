"""Mistakes of `autosample ablate` are one line and code 2; every grid in autosample/configs/ablation can be read."""

import re
from pathlib import Path

import pytest
import yaml

from autosample.experiments.parse import read_grid

pytestmark = pytest.mark.slow  # every cell is a process of its own

GRIDS = sorted((Path(__file__).parents[2] / "autosample" / "configs" / "ablation").glob("*.yaml"))
GOOD = "{data: {class: Digits}, model: {name: digitnet, in_chans: 1}, presets: [dense], seeds: 1}"


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_grids_of_the_project(path):
    grid = read_grid(path)
    assert grid.compare.split()[0] == "autosample"  # with its bits, where it has any
    assert len({cell.repetition for cell in grid.cells}) >= 3
    assert {"wsnet", "random", "autosample"} <= {label.split()[0] for label in grid.labels}
    # whole nets at equal bytes, never layers at equal ratios
    assert {cell.size.kind for cell in grid.cells if cell.size} <= {"net_ratio", "like"}
    scripts = (Path(__file__).parents[2] / "scripts").glob("reproduce_*.sh")
    assert path.stem == "quick" or any(path.stem in re.split(r"[\s/.;]", s.read_text()) for s in scripts)


def test_grids_of_the_research_log():
    for path in (GRIDS[0].parents[1] / "research").glob("*.yaml"):
        assert read_grid(path, holdout=0.2, test=False).compare == "random"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("data: {class: Digitz}\nmodel: digitnet\npresets: [dense]", (), 'got "Digitz": did you mean "Digits"'),
        ("data: {class: Digits}\nmodel: digitnet\npresets: [dens]", (), 'no preset is called "dens": did you mean'),
        ("prests: 3", (), 'a grid has no key "prests": did you mean "presets"'),
        ("a: [", (), "a grid must be valid YAML"),
        (GOOD, ("--jbos", "2"), 'no option is called "jbos": did you mean "jobs"'),
        (GOOD, ("--jobs", "0"), "jobs must be at least 1, got 0"),
        (GOOD, ("--jobs", "two"), "--jobs: invalid int value: 'two'"),
        (GOOD, ("--only", "denes"), 'no cell of bad matches "denes": did you mean "dense"'),
        (GOOD, ("--collect",), "there must be records to collect, got none"),
        (GOOD, ("--choose", "2"), r"holdout must be a share in \[0, 1\)"),
        (GOOD.replace("Digits", "MNIST, root: /no/where"), (), "/no/where"),
    ],
)
def test_mistakes(autosample, tmp_path, text, options, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    code, _, err = autosample("ablate", path, "--out", tmp_path / "out", *options)
    assert code == 2
    assert err.startswith("autosample: error: ")
    assert err.count("\n") == 1
    assert message.replace("\\", "") in err
    assert not list((tmp_path / "out").rglob("*.json"))


def test_no_file_and_help(autosample, configs, monkeypatch):
    monkeypatch.chdir(configs.parent)
    ended = autosample("ablate", "autosample/configs/ablation/quik.yaml")
    assert ended.code == 2
    assert 'did you mean "autosample/configs/ablation/quick.yaml"' in ended.err
    ended = autosample("ablate", "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "--collect" in ended.out
    assert "ablate" in autosample().out


def test_sweeps_choose_on_held_out_data(configs):
    for path in (configs / "sweep").glob("*.yaml"):
        sweep = yaml.safe_load(path.read_text())
        assert sweep["metric"]["name"] == "val/acc"
        assert "--test_after_fit=false" in sweep["command"]
