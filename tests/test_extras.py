"""What an extra brings is asked for in one line where it is missing, and is not needed anywhere else."""

import re
import tomllib
from pathlib import Path

import pytest
from blocking import EXTRA_MODULES, VERB, without_extras

from autosample.cli.verbs import VERBS
from autosample.errors import AutosampleError, MissingExtra
from autosample.system.extras import EXTRAS, require

# packages whose module has another name
MODULES = {"pytorch-lightning": "pytorch_lightning", "scikit-learn": "sklearn", "torch-pruning": "torch_pruning"}


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.extra])
def test_a_verb_whose_extra_is_missing_says_how_to_get_it(verb):
    done = without_extras(VERB, verb, "--some=thing")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    extra = VERBS[verb].extra
    assert done.stderr.startswith("autosample: error: this needs packages that are not installed, ")
    assert done.stderr.endswith(f": pip install 'autosample[{extra}]'\n")
    assert all(name in done.stderr for name in EXTRAS[extra])


NEEDS = [
    ("import autosample.training", "train"),
    ("import autosample.data", "train"),
    ("from autosample.training import Classifier", "train"),
    ("import autosample, torch; autosample.export_onnx(torch.nn.Linear(2, 2), 'x.onnx', torch.ones(1, 2))", "export"),
    ("from autosample.experiments.collect import paired_p; paired_p([1, 2], [2, 3])", "ablate"),
    ("from autosample.experiments.drawing import drawn; drawn('x.png').__enter__()", "ablate"),
    ("from autosample.experiments.ray_runner import ray_runner; ray_runner(None, 1)", "ray"),
]


def test_a_function_whose_extra_is_missing_says_how_to_get_it(tmp_path):
    tries = [f"try:\n    {code}\nexcept MissingExtra as error:\n    print(error)" for code, _ in NEEDS]
    done = without_extras("\n".join(["from autosample.errors import MissingExtra", *tries]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    for line, (code, extra) in zip(lines, NEEDS, strict=True):
        assert line.endswith(f"pip install 'autosample[{extra}]'"), code
    assert not list(tmp_path.iterdir())


# everything that works without any extra, for test_wheel
BASE = """
import subprocess, sys
import torch
import autosample
from autosample.cli.main import main
from autosample.models import create

model, x = create("digitnet", num_classes=10).eval(), torch.randn(2, 1, 16, 16)
autosample.convert_(model, "autosample", ratio=4, options={"afford": 10})
assert autosample.report(model, x).ratio > 2
autosample.harden_(model)
print(autosample.quantize_(model, 8, rest="fp16"))
expected = model(x)
autosample.save(model, "saved")
loaded = autosample.load("saved")
torch.testing.assert_close(loaded(x), expected)
fast = autosample.deploy(loaded, x, measure=False, fuse=False)
torch.testing.assert_close(fast(x), expected, rtol=1e-3, atol=1e-4)
for line in ("report test_resnet --spec wsnet --ratio 4 --out report", "card saved", "--help", "--version",
             "quantize saved --bits 4 --out small", "export small --format artifact --out again"):
    assert main(line.split()) == 0, line
assert main("export saved --format onnx --input 1 16 16 --out x.onnx".split()) == 2
"""


def test_the_table_is_that_of_the_project_file():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def modules(extra: str) -> set[str]:
        found = set()
        for line in extras[extra]:
            name = re.split(r"[\[<>=!;]", line)[0]
            inner = re.fullmatch(r"autosample\[(.*)\]", line)
            found |= set().union(*map(modules, inner[1].split(","))) if inner else {MODULES.get(name, name)}
        return found

    for extra, names in EXTRAS.items():
        assert modules(extra) - {"torch"} == set(names)
    assert modules("all") - {"torch"} == EXTRA_MODULES
    base = {re.split(r"[\[<>=!;]", line)[0] for line in project["dependencies"]}
    assert not base & EXTRA_MODULES


def test_require():
    require("train", "json")
    with pytest.raises(MissingExtra, match=r"not installed, not_there_1: pip install 'autosample\[ray\]'"):
        require("ray", "json", "not_there_1")
    assert issubclass(MissingExtra, AutosampleError)
    assert issubclass(MissingExtra, ImportError)
