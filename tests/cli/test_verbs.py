import csv
import subprocess
import sys

import pytest
import torch
import yaml

from autosample import __version__
from autosample.cli.verbs import VERBS


def test_fit_writes_log_report_config_and_checkpoints(trained):
    files = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "hparams.yaml", "metrics.csv", "report.json", "report.csv", "report.md"} <= files
    saved = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert (saved["spec"], saved["ratio"], saved["model"]) == ("wsnet", 16, "digitnet")


def test_fit_prints_no_notices_and_tests_at_the_end(fit):
    code, out, err = fit()
    assert (code, err) == (0, "")
    assert "test/acc" in out
    assert "times smaller than dense" in out
    for notice in ("Tip", "configure_callbacks", "train_dataloader", "GPU available", "num_workers", "Seed set"):
        assert notice not in out


def test_validate_test_and_predict_from_the_checkpoint_of_a_run(autosample, trained, tmp_path):
    common = ("--config", trained / "config.yaml", "--ckpt_path", trained / "checkpoints" / "last.ckpt")
    for verb in ("validate", "test", "predict"):
        code, out, err = autosample(verb, *common, "--trainer.default_root_dir", tmp_path)
        assert (code, err) == (0, ""), verb
    assert "predictions: " in out
    with next(tmp_path.rglob("predictions.csv")).open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 64
    assert all(line["class"] in "0123456789" and 0 < float(line["probability"]) <= 1 for line in lines)


def test_the_model_comes_from_the_checkpoint_where_no_config_names_it(autosample, trained, tmp_path):
    checkpoint = ("--ckpt_path", trained / "checkpoints" / "last.ckpt", "--trainer.limit_test_batches=1")
    options = ("--data=Digits", "--data.image_size=16", "--name=x", "--trainer.default_root_dir", tmp_path)
    ended = autosample("test", *options, *checkpoint)
    assert (ended.code, ended.err) == (0, "")
    assert yaml.safe_load((tmp_path / "x/version_0/config.yaml").read_text())["model"]["spec"] == "wsnet"


def test_training_goes_on_from_a_checkpoint(fit, tmp_path):
    assert fit("--trainer.max_epochs=1").code == 0
    checkpoint = tmp_path / "digits/version_0/checkpoints/last.ckpt"
    assert fit("--trainer.max_epochs=3", "--ckpt_path", checkpoint).code == 0
    assert torch.load(tmp_path / "digits/version_1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_a_printed_config_runs_again(fit, autosample, tmp_path):
    code, printed, err = fit("--model.ratio=16", "--print_config")
    assert (code, err) == (0, "")
    assert yaml.safe_load(printed)["model"]["ratio"] == 16
    (tmp_path / "printed.yaml").write_text(printed)
    code, again, _ = autosample("fit", "--config", tmp_path / "printed.yaml", "--print_config")
    assert code == 0
    assert yaml.safe_load(again) == yaml.safe_load(printed)
    assert autosample("fit", "--config", tmp_path / "printed.yaml").code == 0


def test_without_data_the_digits_are_trained(autosample, tmp_path):
    code, out, _ = autosample("fit", "--print_config")
    config = yaml.safe_load(out)
    assert code == 0
    assert config["data"]["class_path"] == "autosample.data.Digits"
    assert (config["model"]["model"], config["model"]["ratio"]) == ("test_resnet", 8)
    path = tmp_path / "half.yaml"
    path.write_text("model: {ratio: 32}")
    code, out, _ = autosample("fit", "--config", path, "--print_config")
    assert yaml.safe_load(out)["model"]["ratio"] == 32


def test_abbreviations_are_mistakes(fit):
    assert 'did you mean "trainer.max_epochs"' in fit("--trainer.max_epoch=2").err


def test_fast_dev_run_leaves_nothing(autosample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert autosample("fit", "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu").code == 0
    assert not list(tmp_path.iterdir())


def test_the_seed_reaches_the_model_whatever_the_seed_of_the_data(fit, tmp_path):
    assert fit("--seed_everything=3", "--test_after_fit=false").code == 0
    assert yaml.safe_load((tmp_path / "digits/version_0/hparams.yaml").read_text())["model.seed"] == 3


@pytest.mark.slow
def test_the_csv_log_stays_when_wandb_is_asked_for(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert fit("--config", "trainer/wandb", "--trainer.logger.save_dir", tmp_path).code == 0
    import wandb

    wandb.finish()
    assert (tmp_path / "digits/version_0/metrics.csv").is_file()
    assert list(tmp_path.rglob("offline-run-*"))


def test_report(autosample, tmp_path):
    code, out, err = autosample("report", "resnet18", "--spec=wsnet", "--ratio=8", "--out", tmp_path / "r")
    assert (code, err) == (0, "")
    assert "layer4.1.conv2" in out
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"report.json", "report.csv", "report.md"}


def test_report_takes_lists_in_both_forms(autosample):
    words = ("report", "test_resnet", "--ratio", "null", "--spec", "dense", "--input")
    assert autosample(*words, "3", "64", "64") == autosample(*words, "[3, 64, 64]")
    few = autosample("report", "test_resnet", "--include", "re:.*conv[12]", "conv1.3")
    assert few == autosample("report", "test_resnet", "--include=['re:.*conv[12]', conv1.3]")
    assert few.code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_help(autosample, verb):
    code, out, err = autosample(verb, "--help")
    assert (code, err) == (0, "")
    assert "usage: autosample" in out


def test_version_and_overview(autosample):
    assert autosample("--version") == (0, f"autosample {__version__}\n", "")
    assert autosample() == autosample("--help")
    assert all(f"\n  {name} " in autosample().out and verb.about in autosample().out for name, verb in VERBS.items())
    assert max(map(len, autosample().out.splitlines())) <= 120


def test_as_a_process():
    done = subprocess.run([sys.executable, "-m", "autosample", "fti"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'autosample: error: no verb is called "fti": did you mean "fit"?\n'
    assert done.stdout == ""


@pytest.mark.slow
def test_the_last_run_goes_on_and_the_first_one_begins(fit, tmp_path):
    """One command for both, as torchrun and Slurm start it again and again."""
    words = ("--name=again", "--ckpt_path=last")
    assert fit(*words).code == 0
    first = torch.load(tmp_path / "again/version_0/checkpoints/last.ckpt", weights_only=True)
    assert fit(*words, "--trainer.max_epochs=3").code == 0
    second = torch.load(tmp_path / "again/version_1/checkpoints/last.ckpt", weights_only=True)
    assert (first["global_step"], second["global_step"]) == (2, 6)
    with (tmp_path / "again/version_1/metrics.csv").open(newline="") as file:
        epochs = [row["epoch"] for row in csv.DictReader(file) if row["train/loss"]]
    assert epochs == ["1", "2"]
    assert fit("--name=another", "--ckpt_path=last").code == 0
    third = torch.load(tmp_path / "another/version_0/checkpoints/last.ckpt", weights_only=True)
    assert third["global_step"] == 2


def test_a_trainer_without_the_processes_of_torchrun_is_refused(fit, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    ended = fit()
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "torchrun has started 2 processes, got a trainer for 1: set --trainer.devices" in ended.err
