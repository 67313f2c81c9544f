"""A net of the user's own, registered in a module of theirs, through the verbs."""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

NET = """
import torch
from timm.models import register_model
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Conv2d(in_chans or 1, 32, 5, stride=3)
        self.more = nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.head(self.more(self.body(x).relu()).mean((2, 3)))

@register_model
def a_net_of_mine(pretrained=False, num_classes=10, in_chans=1, **kwargs):
    return Tiny(num_classes, in_chans)
"""
FACTORY = """
from torch import nn

def make(width):
    return nn.Sequential(nn.Conv2d(16, width, 3), nn.ReLU(), nn.Conv2d(width, 16, 3))
"""
SAVE = """
import sys
sys.path.insert(0, ".")
import autosample, factories
model = factories.make(32)
autosample.convert_(model, "random", ratio=4)
autosample.save(model, "out", factory=factories.make, arguments={"width": 32})
"""
GRID = """
data: {class: Digits, image_size: 16, batch_size: 64}
model: {name: a_net_of_mine, num_classes: 10, in_chans: 1}
train: {epochs: 1, lr: 4.0e-3}
presets: [dense, random]
net_ratios: [1.5]
seeds: 1
"""


def run(folder, *words, **variables):
    """The command in a process of its own, which knows nothing of the net."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "autosample", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_from_training_to_a_file(autosample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("AUTOSAMPLE_IMPORT", "")
    (tmp_path / "mynets.py").write_text(NET)
    own = ("--import", "mynets")
    short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu")
    fit = ("fit", "--data=Digits", "--data.image_size=16", "--model.model=a_net_of_mine", "--model.ratio=2", *short)
    assert autosample(*fit, *own).code == 0
    last = next(tmp_path.rglob("last.ckpt"))
    assert run(tmp_path, "export", last, "--import=mynets", "--format=artifact", "--out=saved").returncode == 0
    assert autosample("quantize", "saved", *own, "--out=small").code == 0
    # with a variable instead
    assert "a_net_of_mine" in run(tmp_path, "card", "small", AUTOSAMPLE_IMPORT="mynets").stdout
    told = run(tmp_path, "card", "small", AUTOSAMPLE_IMPORT="")
    assert told.returncode == 2
    assert "one of your own: --import the module that registers it" in told.stderr


def test_a_model_that_was_saved_with_a_factory(autosample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("AUTOSAMPLE_IMPORT", "")
    (tmp_path / "factories.py").write_text(FACTORY)
    (tmp_path / "save.py").write_text(SAVE)
    exec((tmp_path / "save.py").read_text(), {})
    code, _, err = autosample("card", "out")
    assert code == 2
    assert "pass factory= (--factory MODULE:NAME)" in err
    made = "--factory=factories:make"
    assert "`make` with 2 of 2 layers compressed" in autosample("card", "out", made).out
    assert autosample("quantize", "out", made, "--bits=4", "--out=small").code == 0
    assert autosample("export", "small", made, "--format=dense", "--out=dense.safetensors").code == 0
    code, _, err = autosample("card", "out", "--factory=factories:mak")
    assert code == 2
    assert "--factory needs a function as MODULE:NAME, got factories:mak" in err
    shape = load_file("dense.safetensors")["0.weight"].shape
    assert shape == (32, 16, 3, 3)


@pytest.mark.slow
def test_a_grid_in_processes(tmp_path):
    (tmp_path / "mynets.py").write_text(NET)
    (tmp_path / "grid.yaml").write_text(GRID)
    ended = run(tmp_path, "ablate", "grid.yaml", "--jobs=2", "--import=mynets")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("random") >= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--import", "no_such_module"), "--import needs a module that Python finds, got no_such_module"),
        (("--import=broken",), "No module named 'not_there'"),
        (("--import",), "--import needs the name of a module, got none"),
    ],
)
def test_mistakes(autosample, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken.py").write_text("import not_there\n")
    if "not_there" in message:
        with pytest.raises(ModuleNotFoundError, match=message):
            autosample("report", "resnet18", *words)
        return
    code, _, err = autosample("report", "resnet18", *words)
    assert code == 2
    assert message in err
