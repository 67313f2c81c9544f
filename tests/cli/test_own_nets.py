"""A net of the user's own, registered in a module of theirs, through the verbs."""

import os
import subprocess
import sys

import pytest

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


def test_from_training_to_a_file(tmp_path):
    (tmp_path / "mynets.py").write_text(NET)
    own = ("--import", "mynets")
    short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu")
    fit = ("fit", "--data=Digits", "--data.image_size=16", "--model.model=a_net_of_mine", "--model.ratio=2", *short)
    made = run(tmp_path, *fit, *own)
    assert made.returncode == 0, made.stderr
    last = next(tmp_path.rglob("last.ckpt"))
    assert run(tmp_path, "export", last, "--import=mynets", "--format=artifact", "--out=saved").returncode == 0
    assert run(tmp_path, "quantize", "saved", *own, "--out=small").returncode == 0
    # with a variable instead
    assert "a_net_of_mine" in run(tmp_path, "card", "small", AUTOSAMPLE_IMPORT="mynets").stdout
    told = run(tmp_path, "card", "small")
    assert told.returncode == 2
    assert "one of your own: --import the module that registers it" in told.stderr


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
