"""Budgets of a `Classifier`: they are resolved when it is built, and never again."""

import pytest
import torch

from autosample.budget import latency
from autosample.errors import ConfigError
from autosample.training import Classifier

NET = {"model": "digitnet", "num_classes": 10}


def test_bytes_with_planned_bits():
    made = Classifier(**NET, spec="random", bytes=20_000, planned_bits=4)
    report = made.size_report()
    assert report.stored_bytes > 20_000 >= report.budget.reached > 19_600
    assert made.hparams["ratio"] == report.budget.ratio
    assert (made.hparams["bytes"], made.hparams["latency"], made.hparams["input"]) == (None, None, None)
    # nothing else is left in the arguments: they give the same net
    assert Classifier(**made.hparams).size_report().stored_bytes == report.stored_bytes


def test_the_numbers_are_those_of_the_ratio(clock):
    torch.manual_seed(0)
    made = Classifier(**NET, latency=0.1, input=[1, 16, 16])
    torch.manual_seed(0)
    again = Classifier(**NET, ratio=made.hparams["ratio"])
    expected = again.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in made.state_dict().items())


def test_checkpoints_hold_the_ratio(clock, trainer, digits, tmp_path, monkeypatch):
    made = Classifier(**NET, latency=0.1, input=[1, 8, 8])
    going = trainer()
    going.fit(made, datamodule=digits())
    going.save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setattr(latency, "time_deployed", None)
    loaded = Classifier.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.hparams["ratio"] == made.hparams["ratio"]
    # a budget that somebody wrote into one is not searched for
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    saved["hyper_parameters"] |= {"latency": 0.01, "bytes": 7, "input": [1, 4096, 4096]}
    torch.save(saved, tmp_path / "other.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "other.ckpt")
    assert loaded.size_report().stored_bytes == made.size_report().stored_bytes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"latency": 0.1}, r"latency needs the shape of one example, got None: pass input=\[3, 224, 224\]"),
        ({"latency": 0.1, "input": [1, 0, 16]}, r"latency needs the shape of one example, got \[1, 0, 16\]"),
        ({"latency": 0.1, "input": [1, 16, 16], "ratio": 8}, "exclude each other, got ratio=8 and latency=0.1"),
        ({"bytes": 1e5, "ratio": 8}, "exclude each other, got ratio=8 and bytes=100000.0"),
        ({"bytes": 1e5, "spec_args": {"options": {"spatial": 4}}, "spec": "wsnet"}, "got spatial=4 and bytes"),
        ({"bytes": 1e5, "spec": "dense"}, "a budget needs a preset that compresses, got dense"),
    ],
)
def test_mistakes(clock, given, message):
    with pytest.raises(ConfigError, match=message):
        Classifier(**NET, **given)
    assert clock == []
