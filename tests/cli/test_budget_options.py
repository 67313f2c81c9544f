"""Budgets on the command line: what was found is what config.yaml and checkpoints hold."""

import json

import pytest
import torch
import yaml

from autosample import convert_, report
from autosample.budget import latency
from autosample.models import create
from autosample.training import Classifier


def run_of(tmp_path, version=0):
    return tmp_path / "digits" / f"version_{version}"


def model_of(folder) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())["model"]


def test_bytes(fit, tmp_path):
    ended = fit("--model.ratio=null", "--model.bytes=50000")
    assert ended.code == 0, ended.err
    assert "asked for 50,000 bytes, reached 49,952 at ratio 29.93" in ended.out
    assert "stored 49,952 bytes" in ended.out
    run = run_of(tmp_path)
    given, report = model_of(run), json.loads((run / "report.json").read_text())
    assert (given["bytes"], given["latency"]) == (None, None)
    assert report["budget"]["asked"] == 50_000
    assert report["budget"]["ratio"] == given["ratio"]
    assert report["total"]["stored_bytes"] == report["budget"]["reached"] == 49_952


def test_a_run_with_a_latency_goes_on_without_measuring(fit, autosample, tmp_path, clock, monkeypatch):
    ended = fit("--model.ratio=null", "--model.latency=0.05")
    assert ended.code == 0, ended.err
    assert "reached 0.04" in ended.out
    assert set(clock) == {(1, 1, 16, 16)}  # an example of the data
    run, count = run_of(tmp_path), len(clock)
    given, last = model_of(run), run / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)["hyper_parameters"]
    assert (given["bytes"], given["latency"]) == (saved["bytes"], saved["latency"]) == (None, None)
    assert given["ratio"] == saved["ratio"] > 1
    monkeypatch.setattr(latency, "time_deployed", None)
    more = ("--trainer.max_epochs=2", "--trainer.default_root_dir", tmp_path)
    assert autosample("fit", "--config", run / "config.yaml", "--ckpt_path", last, *more).code == 0
    assert model_of(run_of(tmp_path, 1)) == given
    assert autosample("test", "--config", run / "config.yaml", "--ckpt_path", last).code == 0
    assert Classifier.load_from_checkpoint(last).hparams["ratio"] == given["ratio"]
    assert len(clock) == count
    ended = autosample("fit", "--config", run / "config.yaml", "--ckpt_path", last, "--model.latency=0.1")
    assert ended.code == 2
    assert "model.latency must match the checkpoint, got 0.1 for a checkpoint with None" in ended.err


@pytest.mark.slow
def test_multiplications(fit, tmp_path):
    """The same as in Python, for an example of the data."""
    ended = fit("--config=spec/folded", "--model.ratio=null", "--model.multiplications=3000000")
    assert ended.code == 0, ended.err
    known = convert_(
        create("digitnet", num_classes=10), "folded", multiplications=3e6, example=torch.zeros(1, 1, 16, 16)
    )
    assert known.budget is not None
    assert str(known.budget) in ended.out
    run = run_of(tmp_path)
    given, report = model_of(run), json.loads((run / "report.json").read_text())
    assert (given["multiplications"], given["ratio"]) == (None, known.budget.ratio)
    assert report["total"]["multiplications"] == report["budget"]["reached"] == known.budget.reached <= 3e6


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", [False, True])
def test_multiplications_become_products(fit, autosample, tmp_path, goes_on):
    """And a run that goes on, or a test of it, has the same net."""
    options = ("--model.spec_args", '{"options": {"patch": 2}}')
    ended = fit("--config=spec/strassen", "--model.ratio=null", "--model.multiplications=100000", *options)
    assert ended.code == 0, ended.err
    assert "asked for 100,000 multiplications, reached 9" in ended.out
    run = run_of(tmp_path)
    given, last = model_of(run), run / "checkpoints" / "last.ckpt"
    products = given["spec_args"]["options"].pop("products")
    assert given["spec_args"] == {"options": {"patch": 2}}
    assert (given["ratio"], given["multiplications"]) == (None, None)
    saved = Classifier.load_from_checkpoint(last)
    assert saved.hparams["spec_args"]["options"] == {"patch": 2, "products": products}
    counted = report(saved.net, torch.zeros(1, 1, 16, 16)).multiplications
    assert counted == json.loads((run / "report.json").read_text())["budget"]["reached"] <= 100_000
    if not goes_on:
        return
    more = ("--trainer.max_epochs=2", "--trainer.default_root_dir", tmp_path)
    assert autosample("fit", "--config", run / "config.yaml", "--ckpt_path", last, *more).code == 0
    assert autosample("test", "--config", run / "config.yaml", "--ckpt_path", last).code == 0


def test_overrides_that_were_found_are_kept(fit, tmp_path, autosample):
    # whole strides of one layer jump past this size
    options = ("--model.model=mlp784", "--model.spec=fsnet", "--model.include=[stages.0.fc,head.fc]")
    ended = fit("--model.ratio=null", "--model.bytes=49688", *options, "--data.image_size=28")
    assert ended.code == 0, ended.err
    run = run_of(tmp_path)
    assert {change["options"]["strides"] for change in model_of(run)["overrides"].values()} == {"any"}
    last = run / "checkpoints" / "last.ckpt"
    assert 0.99 * 49_688 < Classifier.load_from_checkpoint(last).size_report().stored_bytes <= 49_688
    more = ("--trainer.max_epochs=2", "--trainer.default_root_dir", tmp_path)
    assert autosample("fit", "--config", run / "config.yaml", "--ckpt_path", last, *more).code == 0


def test_a_budget_takes_the_place_of_the_usual_ratio(autosample, tmp_path, clock):
    short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1")
    ended = autosample("fit", "--model.bytes=50000", *short, "--trainer.default_root_dir", tmp_path)
    assert ended.code == 0, ended.err
    assert "asked for 50,000 bytes, reached 49," in ended.out


def test_report(autosample, tmp_path, clock):
    ended = autosample("report", "digitnet", "--bytes", "50_000", "--out", tmp_path)
    assert "asked for 50,000 bytes, reached 49,952 at ratio 29.93" in ended.out
    assert json.loads((tmp_path / "report.json").read_text())["total"]["stored_bytes"] == 49_952
    ended = autosample("report", "digitnet", "--bytes", "50_000", "--planned_bits", "4")
    assert "asked for 50,000 bytes at 4 bits per number, reached 49," in ended.out
    ended = autosample("report", "digitnet", "--spec", "strassen", "--multiplications", "50_000")
    assert "asked for 50,000 multiplications, reached 4" in ended.out
    ended = autosample("report", "digitnet", "--latency", "0.05", "--input", "1", "20", "20")
    assert "asked for 0.05 ms (deployed, 1 thread), reached 0.04" in ended.out
    assert set(clock) == {(1, 1, 20, 20)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bytes", "1000"), "must be between [0-9,]+ and 1,118,928 bytes, got 1,000: choose a size in this range"),
        (("--bytes", "2000000"), "must be below the 1,118,928 bytes of the dense model, got 2,000,000"),
        (("--bytes", "500kb"), "bytes must be a number, got 500kb"),
        (("--bytes", "-3"), "bytes must be a number of bytes above 0, got -3.0"),
        (("--bytes", "nan"), "bytes must be a number of bytes above 0, got nan"),
        (("--bytes", "50000", "--ratio", "8"), "ratio, bytes and latency exclude each other, got ratio=8.0 and bytes"),
        (("--bytes", "50000", "--latency", "1"), "exclude each other, got bytes=50000.0 and latency=1.0"),
        (
            ("--latency", "0.0001"),
            r"must be at least 0\.\d+ ms, the fastest plan found here \(ratio \d+\), got 0\.0001 ms",
        ),
        (("--latency", "1", "--spec", "dense"), "a budget needs a preset that compresses, got dense"),
        (
            ("--multiplications", "0"),
            "multiplications must be a number of multiplications of the whole net above 0, got 0.0",
        ),
        (
            ("--multiplications", "1e3", "--spec", "strassen"),
            "multiplications of this model must be at least [0-9,]+, got 1,?000: ask for more",
        ),
        (
            ("--multiplications", "1e9", "--ratio", "8"),
            "exclude each other, got ratio=8.0 and multiplications=1000000000.0",
        ),
    ],
)
def test_mistakes_of_report(autosample, clock, options, message):
    ended = autosample("report", "digitnet", *options)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(ended.err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--model.bytes=50000",),
            "got ratio=8.0 and bytes=50000.0: keep one (null removes another)",
        ),
        (("--model.ratio=null", "--model.bytes=500kb"), "model.bytes must be a number or null, got 500kb"),
        (("--model.ratio=null", "--model.bytes=-3"), "bytes must be a number of bytes above 0, got -3.0"),
        (("--model.ratio=null", "--model.latency=.nan"), "latency must be a number of milliseconds above 0, got nan"),
        (("--model.ratio=null", "--model.bytes=1000"), "bytes, got 1,000: choose a size in this range"),
        (("--model.ratio=null", "--model.latency=5"), "that the dense model takes here, deployed, got 5 ms: use the"),
        (
            ("--model.multiplications=1e5",),
            "got ratio=8.0 and multiplications=100000.0: keep one (null removes another)",
        ),
        (
            ("--model.ratio=null", "--model.multiplications=many"),
            "model.multiplications must be a number or null, got many",
        ),
        (("--model.ratio=null", "--model.multiplications=-1"), "multiplications of the whole net above 0, got -1.0"),
        (("--model.ratio=null", "--model.multiplications=1e12"), "of the dense model, got 1,000,000,000,000"),
    ],
)
@pytest.mark.every(3)
def test_mistakes_of_fit(fit, clock, options, message):
    ended = fit(*options)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert message in ended.err


def test_a_latency_is_found_in_one_process(fit, clock):
    ended = fit("--model.ratio=null", "--model.latency=0.05", "--trainer.devices=2")
    assert ended.code == 2
    assert "latency needs one process, as each would find its own ratio, got 2: pass --model.ratio 6." in ended.err
