"""Mistakes of `autosample ablate` are one line and code 2; every grid in autosample/configs/ablation can be read."""

import re
from pathlib import Path

import pytest

from autosample.experiments.parse import read_grid
from autosample.system.configs import names, read

pytestmark = pytest.mark.slow  # every cell is a process of its own

GOOD = "{data: {class: Digits}, model: {name: digitnet, in_chans: 1}, presets: [dense], seeds: 1}"


@pytest.mark.parametrize("name", names("ablation"))
def test_grids_of_the_project(name):
    grid = read_grid(name)
    assert grid.compare[0].split()[0] == "autosample"  # with its bits, where it has any
    assert len({cell.repetition for cell in grid.cells}) >= 3
    assert {"wsnet", "random", "autosample"} <= {label.split()[0] for label in grid.labels}
    # whole nets at equal bytes, never layers at equal ratios
    assert {cell.size.kind for cell in grid.cells if cell.size} <= {"net_ratio", "like"}
    scripts = (Path(__file__).parents[2] / "scripts").glob("*.*")
    last = name.rpartition("/")[2]
    assert last == "quick" or any(last in re.split(r"[\s/.;]", s.read_text()) for s in scripts)


def test_grids_of_the_research_log():
    for name in names("research"):
        assert read_grid(name, holdout=0.2, test=False).compare in (("random",), ("r-root",))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("data: {class: Digitz}\nmodel: digitnet\npresets: [dense]", (), 'got "Digitz": did you mean "Digits"'),
        ("data: {class: Digits}\nmodel: digitnet\npresets: [dens]", (), 'no preset is called "dens": did you mean'),
        ("prests: 3", (), 'a grid has no key "prests": did you mean "presets"'),
        ("a: [", (), "a config must be valid YAML"),
        (GOOD, ("--jbos", "2"), 'no option is called "jbos": did you mean "jobs"'),
        (GOOD, ("--jobs", "0"), "jobs must be at least 1, got 0"),
        (GOOD, ("--jobs", "two"), "jobs must be a whole number, got two"),
        (GOOD, ("--only", "denes"), 'no run of bad matches "denes": did you mean "dense"'),
        (GOOD, ("--collect",), "--collect needs records, got none"),
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


def test_no_file_and_help(autosample):
    ended = autosample("ablate", "ablation/quik")
    assert ended.code == 2
    assert 'did you mean "ablation/quick"' in ended.err
    ended = autosample("ablate", "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "--collect" in ended.out
    assert "ablate" in autosample().out


def test_sweeps_choose_on_held_out_data():
    for name in names("sweep"):
        sweep = read(name)
        assert sweep["metric"]["name"] == "val/acc"
        assert "--test_after_fit=false" in sweep["command"]
