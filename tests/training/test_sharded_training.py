"""Sharded training: two processes that hold parts of a net train it like two that hold all of it, and like one."""

import csv
import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes

import autosample
from autosample.artifact.checkpoint import load_file
from autosample.artifact.loading import load_any
from autosample.cli.main import main
from autosample.errors import ArtifactError, TrainingError
from autosample.model.report import report
from autosample.training import Classifier, WholeCheckpoints
from autosample.training.pieces import put_together

EPOCHS, BATCHES = 2, 4
# no batch norm: each process has statistics of its own
PLAIN = {"model_args": {"norm": False}}
# a larger eps, so rounding of gradients that are almost zero does not become a step
ADAM = {"optimizer_args": {"eps": 1e-3}}

LEARNED = {"options": {"afford": 10, "freeze_at": 0.6}}
CLIPPED = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}
SIGNS = {"options": {"signs": "learned", "rate": 0.3, "freeze_at": 0.6}}

#: settings of the classifier, of the trainer, and whether one process trains the same net
KINDS = {
    "folded": ({"spec": "folded", **PLAIN, **ADAM}, {}, True),
    "wsnet": ({"spec": "wsnet", **PLAIN, **ADAM}, {}, True),
    "random": ({"spec": "random", **PLAIN, **ADAM}, {}, True),
    "hashednet": ({"spec": "hashednet", **PLAIN, **ADAM}, {}, True),
    "dense": ({"spec": "dense", **PLAIN, **ADAM}, {}, True),
    "batch norm": ({"spec": "folded", **ADAM}, {"limit_val_batches": 1}, False),
    "residual": ({"spec": "folded", "model": "test_resnet", "in_chans": 1, **ADAM}, {}, False),
    "sgd and clipping": ({"optimizer": "sgd", "spec": "folded", **PLAIN}, {"gradient_clip_val": 0.1}, True),
    "clipping of learned": ({"optimizer": "sgd", "spec": "dfsnet", **PLAIN}, {"gradient_clip_val": 0.1}, True),
    "lamb": ({"optimizer": "lamb", "spec": "folded", **PLAIN, **ADAM}, {}, True),
    "accumulation": ({"spec": "folded", **PLAIN, **ADAM}, {"accumulate_grad_batches": 2}, True),
    "learned positions": ({"spec": "autosample", "spec_args": LEARNED, **PLAIN, **ADAM}, {}, True),
    "dfsnet": ({"spec": "dfsnet", **PLAIN, **ADAM}, {"accumulate_grad_batches": 2}, True),
    "learned choice": ({"spec": "kmeans", "spec_args": {"rule": "categorical"}, **PLAIN, **ADAM}, {}, True),
    "learned signs": ({"spec": "folded", "spec_args": SIGNS, **PLAIN, **ADAM}, CLIPPED, True),
    "mixed bf16": ({"spec": "folded", **PLAIN, **ADAM}, {"precision": "bf16-mixed"}, False),
    "bf16": ({"spec": "folded", **PLAIN, **ADAM}, {"precision": "bf16-true"}, False),
}
QUICK = ("folded",)


class Keep(pl.Callback):
    """Keeps the whole net after every step and at the end."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, *_):
        self.on_fit_end(trainer, module)

    def on_fit_end(self, trainer, module):
        self.seen.append({name: t.clone() for name, t in put_together(module.net.state_dict()).items()})


def _child(rank, port, work, folder):
    place = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    os.environ.update({**place, "MASTER_ADDR": "127.0.0.1"})
    torch.save(work(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture
def in_two(tmp_path):
    """Calls a function in two processes at once; what each of them returns."""
    if torch.cuda.is_available():
        pytest.skip("a process that uses a GPU cannot be forked")

    def run(work):
        given = (find_free_network_port(), work, tmp_path)
        start_processes(_child, given, nprocs=2, start_method="fork")
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    return run


@pytest.fixture
def fit(trainer, digits):
    """Trains a classifier; the states after each step."""

    def train(settings, strategy=None, data=None, ckpt_path=None, **options):
        torch.manual_seed(int(os.environ.get("LOCAL_RANK", 0)))  # the second process must take the numbers of the first
        model, keep = Classifier(**{"model": "digitnet", "ratio": 4, "lr": 3e-3, **settings}), Keep()
        several = {"devices": 2, "strategy": strategy} if strategy else {}
        short = {"max_epochs": EPOCHS, "limit_train_batches": BATCHES, "limit_val_batches": 0}
        loop = trainer(**{**short, **several, **options, "callbacks": [keep, *options.get("callbacks", ())]})
        loop.fit(model, datamodule=data or digits(batch_size=16 if strategy else 32), ckpt_path=ckpt_path)
        if strategy == "sharded":
            assert isinstance(model.net, FSDPModule)
            assert all(isinstance(p, DTensor) != (".offsets." in n) for n, p in model.net.named_parameters())
            assert not any(isinstance(t, DTensor) for t in keep.seen[-1].values())
            with pytest.raises(ArtifactError, match=r"got pieces of a sharded training: save the net of"):
                autosample.save(model.net, loop.default_root_dir)
        return keep.seen

    return train


def check_near(states, others, rtol, atol):
    assert len(states) == len(others)
    for step, (mine, theirs) in enumerate(zip(states, others, strict=True)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=rtol, atol=atol, msg=partial(_told, step, name))


def _told(step, name, text):
    return f"step {step}, {name}: {text}"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in QUICK else pytest.mark.slow) for k in KINDS])
def test_sharded_processes_train_as_whole_ones_and_as_one(fit, in_two, kind):
    settings, options, alone = KINDS[kind]
    (parts, whole), (others, _) = in_two(lambda: [fit(settings, how, **options) for how in ("sharded", "ddp")])
    assert len(parts) == EPOCHS * BATCHES + 1
    check_near(parts, whole, rtol=1e-5, atol=1e-6)
    if kind != "lamb":  # its norms of whole tensors are sums over processes
        both = [[{n: t for n, t in state.items() if "running_" not in n} for state in all] for all in (parts, others)]
        check_near(*both, rtol=0, atol=0)
        check_near(parts[-1:], others[-1:], rtol=0, atol=0)  # statistics of batch norms are those of the first process
    if alone:
        check_near(parts, fit(settings, **options), rtol=1e-4, atol=1e-5)


STEPS = {"limit_train_batches": 3, "max_epochs": 4}


def keeping(folder):
    kept = ModelCheckpoint(folder, filename="{epoch}-{step}", save_top_k=-1)
    return {**STEPS, "enable_checkpointing": True, "plugins": [WholeCheckpoints()], "callbacks": [kept]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("norm", [True, False])
def test_checkpoints_are_those_of_one_process(fit, in_two, tmp_path, norm):
    """With whole tensors and the optimizer's state, for `load`, and for a training that goes on, sharded or not."""
    settings = {"spec": "folded", "model_args": {"norm": norm}, **ADAM}
    folder, alone, middle = tmp_path / "kept", tmp_path / "alone", "epoch=1-step=6.ckpt"
    again = keeping(folder)
    (straight, gone_on), _ = in_two(
        lambda: [
            fit(settings, "sharded", **keeping(folder)),
            fit(settings, "sharded", ckpt_path=folder / middle, **again),
        ]
    )
    check_near(gone_on, straight[6:], rtol=0, atol=0)
    saved = load_file(folder / middle)
    check_near([{name: saved["state_dict"][f"net.{name}"] for name in straight[5]}], straight[5:6], rtol=0, atol=0)
    fit(settings, **keeping(alone))
    check_same_form(saved["state_dict"], load_file(alone / middle)["state_dict"])
    check_same_form(saved["optimizer_states"], load_file(alone / middle)["optimizer_states"])
    model, _ = load_any(folder / "epoch=3-step=12.ckpt")
    x = torch.randn(2, 1, 16, 16)
    whole = Classifier.load_from_checkpoint(folder / "epoch=3-step=12.ckpt").eval()
    assert torch.equal(model.eval()(x), whole(x))
    if not norm:
        check_near(fit(settings, ckpt_path=folder / middle, **again), straight[6:], rtol=1e-4, atol=1e-5)
        (other, _) = in_two(lambda: fit(settings, "sharded", ckpt_path=alone / middle, **keeping(alone)))
        check_near(other, straight[6:], rtol=1e-4, atol=1e-5)


def check_same_form(mine, theirs, path=""):
    """Two checkpoints have the same keys, and tensors of the same shapes."""
    assert type(mine) is type(theirs), path
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), path
        for key in mine:
            check_same_form(mine[key], theirs[key], f"{path}.{key}")
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(theirs), path
        for i, pair in enumerate(zip(mine, theirs, strict=True)):
            check_same_form(*pair, f"{path}.{i}")
    elif isinstance(mine, torch.Tensor):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_checkpoint_within_a_step_has_its_gradients(fit, in_two, tmp_path):
    """After a batch whose gradients wait for the next one."""
    settings, folder, two = {"spec": "folded", **PLAIN, **ADAM}, tmp_path / "kept", {"accumulate_grad_batches": 2}

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if (trainer.current_epoch, index) == (0, 2):
                trainer.save_checkpoint(folder / "open.ckpt")

    (straight, gone_on), _ = in_two(
        lambda: [
            fit(settings, "sharded", **two, callbacks=[Save()], plugins=[WholeCheckpoints()]),
            fit(settings, "sharded", **two, ckpt_path=folder / "open.ckpt"),
        ]
    )
    assert load_file(folder / "open.ckpt")["gradients"]["stages.1.conv.summary"].any()
    check_near(gone_on, straight[3:], rtol=0, atol=0)


def averaging(folder):
    """What `fit` takes to average a net over steps, to keep checkpoints, and to test with the average."""
    made = keeping(folder)
    return {**made, "limit_val_batches": 1, "callbacks": [*made["callbacks"], EMAWeightAveraging(decay=0.8)]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("learned", [{}, SIGNS])
def test_averages_are_in_pieces_too(fit, in_two, tmp_path, learned):
    """Nets and averages of two sharded processes are those of two whole ones; training goes on with both."""
    settings, middle = {"spec": "folded", "spec_args": learned, **PLAIN, **ADAM}, "epoch=1-step=6.ckpt"
    parts, whole, alone = (tmp_path / name for name in ("parts", "whole", "alone"))
    (straight, others, gone_on), _ = in_two(
        lambda: [
            fit(settings, "sharded", **averaging(parts)),
            fit(settings, "ddp", **averaging(whole)),
            fit(settings, "sharded", ckpt_path=parts / middle, **averaging(tmp_path / "again")),
        ]
    )
    check_near(straight, others, rtol=0, atol=0)
    check_near(gone_on, straight[6:], rtol=0, atol=0)
    mine, theirs = (load_file(folder / middle) for folder in (parts, whole))
    check_same_form(mine, {**theirs, "loops": mine["loops"], "callbacks": mine["callbacks"]})
    for key in ("state_dict", "current_model_state", "averaging_state"):
        check_near([mine[key]], [theirs[key]], rtol=0, atol=0)
    average, net = (mine[key]["net.stages.1.conv.summary"] for key in ("state_dict", "current_model_state"))
    assert not torch.equal(average, net)
    check_near(fit(settings, ckpt_path=parts / middle, **averaging(alone)), straight[6:], rtol=1e-4, atol=1e-5)


class Bad(pl.Callback):
    """The second process's third batch is not finite."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_rank == 1 and index == 2:
            batch[0].fill_(float("nan"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_sharded_processes_stop_if_numbers_are_not_finite(fit, in_two):
    def run():
        with pytest.raises(TrainingError) as told:
            fit({"spec": "folded", **PLAIN}, "sharded", callbacks=[Bad()])
        return str(told.value)

    first, second = in_two(run)
    assert first.startswith("the loss of step 3 is not finite: the parameter")
    assert second == "the loss of step 3 is not finite: the batch has such numbers: look at the data"


CLI = """
import sys
from autosample.cli.main import main
main(sys.argv[1:])
"""
FLAGS = (
    "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=sharded",
    "--trainer.enable_progress_bar=false",
)  # fmt: skip
SMALL = ("--config=experiment/digits", "--model.model=digitnet", "--model.spec=folded", "--trainer.max_epochs=1")


def called(folder, *words):
    """What the command line prints, in a folder. Its processes are killed after ten minutes."""
    (folder / "cli.py").write_text(CLI)
    with (folder / "printed").open("w") as out:
        command = [sys.executable, "-W", "ignore", "cli.py", *words]
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(timeout=600)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    printed = (folder / "printed").read_text()
    assert process.returncode == 0, printed[-3000:]
    return printed


@pytest.mark.slow
@pytest.mark.ddp
def test_the_command_line_trains_and_tests_sharded(tmp_path, monkeypatch):
    assert called(tmp_path, "fit", *SMALL, *FLAGS).count("times smaller than dense") == 1
    log = tmp_path / "runs/fit/digits/version_0"
    model, _ = load_any(log / "checkpoints/last.ckpt")
    stored = json.loads((log / "report.json").read_text())["total"]["stored_bytes"]
    assert stored == report(model).stored_bytes
    (tested,) = (float(row["test/acc"]) for row in table(log) if row.get("test/acc"))
    called(tmp_path, "fit", *SMALL, *FLAGS, "--trainer.max_epochs=2", "--ckpt_path=last")
    assert {row["epoch"] for row in table(log.with_name("version_1"))} >= {"1"}
    monkeypatch.chdir(tmp_path)
    given = (f"--config={log}/config.yaml", f"--ckpt_path={log}/checkpoints/last.ckpt")
    main(["test", *given, "--trainer.strategy=auto", "--trainer.devices=1"])
    (alone,) = (float(row["test/acc"]) for row in table(log.with_name("version_2")))
    assert alone == pytest.approx(tested, abs=1e-6)


def table(log):
    with (log / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))
