"""The policy for numbers that are not finite: the training stops, and the message names the place."""

import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from autosample.cli.main import main
from autosample.errors import ConfigError, TrainingError
from autosample.training import finite

NAN, INF = float("nan"), float("inf")


class At(pl.Callback):
    """Does something to the net before the step of this number."""

    def __init__(self, step, what):
        self.step, self.what, self.steps = step, what, 0

    def on_train_batch_start(self, trainer, module, batch, index):
        if index == self.step:
            self.what(module.net)

    def on_train_batch_end(self, *args):
        self.steps += 1


def poisoned_gradient(name):
    return lambda net: net.get_parameter(name).register_hook(lambda grad: grad * NAN)


def poisoned_output(name):
    return lambda net: net.get_submodule(name).register_forward_hook(lambda module, args, out: out / 0)


def poisoned_parameter(name):
    return lambda net: net.get_parameter(name).data.fill_(INF)


CASES = {
    "gradient": (poisoned_gradient("stages.1.conv.summary"), 'the gradient of "stages.1.conv.summary" was not', 2),
    "output": (poisoned_output("stages.1.conv"), 'the output of layer "stages.1.conv" is not', 1),
    "parameter": (poisoned_parameter("stages.2.conv.summary"), 'the parameter "stages.2.conv.summary" is not', 1),
}


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_the_message_names_the_layer(classifier, digits, trainer, case, clip):
    what, told, step = CASES[case]
    told = told if clip or case != "gradient" else 'the parameter "stages.1.conv.summary" is not'
    at = At(1, what)
    loop = trainer(limit_train_batches=8, max_epochs=1, gradient_clip_val=clip, callbacks=[at])
    with pytest.raises(TrainingError, match=rf"^the loss of step {step} is not finite: {told}: lower lr, "):
        loop.fit(classifier(spec="random"), datamodule=digits())
    assert at.steps == step  # at once


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_a_bad_gradient_in_the_last_step_is_found(classifier, digits, trainer, precision):
    loop = trainer(max_epochs=1, limit_train_batches=2, precision=precision, callbacks=[At(1, CASES["gradient"][0])])
    with pytest.raises(
        TrainingError, match=r'^the trained net is not finite: the parameter "stages.1.conv.summary" is not'
    ):
        loop.fit(classifier(spec="random"), datamodule=digits())


def test_a_checkpoint_with_nan_does_not_replace_a_good_one(classifier, digits, trainer, tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    at = At(2, CASES["gradient"][0])
    loop = trainer(max_epochs=1, limit_train_batches=4, callbacks=[at, keep], enable_checkpointing=True)
    with pytest.raises(TrainingError, match="the trained net is not finite"):
        loop.fit(classifier(spec="random"), datamodule=digits())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(t.isfinite().all() for t in saved["state_dict"].values() if t.is_floating_point())


def test_bad_data_are_named(classifier, trainer):
    x = torch.randn(16, 1, 8, 8)
    x[5] = NAN
    loader = DataLoader(TensorDataset(x, torch.zeros(16, dtype=torch.long)), batch_size=8)
    with pytest.raises(TrainingError, match=r"the batch has such numbers: look at the data$"):
        trainer(limit_val_batches=0).fit(classifier(), loader, loader)


TWO = """
import sys
import torch, pytorch_lightning as pl
from autosample.data import Digits
from autosample.errors import TrainingError
from autosample.training import Classifier

class Bad(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_rank == 1 and index == 2:
            batch[0].fill_(float("nan"))

if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    steps = dict(max_epochs=1, limit_train_batches=6, limit_val_batches=0)
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", callbacks=[Bad()], **quiet, **steps)
    try:
        trainer.fit(Classifier("digitnet", ratio=4, spec="random"), datamodule=Digits(batch_size=16))
    except TrainingError as error:
        print(f"rank {trainer.global_rank}: {error}", flush=True)
"""


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "two.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))
    assert lines[0].startswith("rank 0: the loss of step 3 is not finite: the parameter")
    assert lines[1:] == ["rank 1: the loss of step 3 is not finite: the batch has such numbers: look at the data"]


def test_ignore_goes_on(classifier, digits, trainer):
    model, at = classifier(spec="random", nan_policy="ignore"), At(1, CASES["gradient"][0])
    trainer(limit_train_batches=3, max_epochs=1, callbacks=[at]).fit(model, datamodule=digits())
    assert at.steps == 3


def test_an_unknown_policy_is_refused(classifier):
    with pytest.raises(ConfigError, match="nan_policy must be one of detect, ignore, got 'stop'"):
        classifier(nan_policy="stop")


class Scaled(pl.plugins.MixedPrecision):
    """Mixed precision with a gradient scaler on the CPU, where every loss of some steps overflows."""

    def __init__(self, steps):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))
        self.steps, self.seen = steps, 0

    def pre_backward(self, tensor, module):
        self.seen += 1
        return super().pre_backward(tensor * (NAN if self.seen in self.steps else 1), module)


def test_steps_that_the_scaler_skips_are_no_fault(classifier, digits, trainer):
    at, plugin = At(0, lambda net: None), Scaled({2, 4})
    model = classifier(spec="random")
    trainer(limit_train_batches=5, max_epochs=1, callbacks=[at], plugins=[plugin]).fit(
        model, datamodule=digits(batch_size=4)
    )
    assert at.steps == 5
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_scaler_that_skips_everything_is_a_fault(classifier, digits, trainer, monkeypatch):
    monkeypatch.setattr(finite, "_SKIPPED", 4)
    at, plugin = At(0, lambda net: None), Scaled(set(range(3, 99)))
    loop = trainer(limit_train_batches=12, max_epochs=1, callbacks=[at], plugins=[plugin])
    with pytest.raises(TrainingError, match=r"the loss of step .* is not finite"):
        loop.fit(classifier(spec="random"), datamodule=digits(batch_size=4))
    assert at.steps == 5


def test_the_verb_ends_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "--model.model=digitnet",
        "--model.ratio=4",
        "--model.lr=1e30",
        "--model.warmup=0",
        "--trainer.max_epochs=1",
    ]
    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=9"]
    assert main(["fit", "--data=Digits", *words, *quick]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not finite" in line
    assert "lower lr" in line
