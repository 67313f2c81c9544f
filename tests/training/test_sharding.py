"""Sharded training: two processes that hold parts of a net train it like two that hold all of it, and like one."""

import os
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes

from autosample.artifact.checkpoint import load_file
from autosample.artifact.loading import load_any
from autosample.errors import ConfigError
from autosample.models import create
from autosample.training import Classifier, ClusterPenalty, FakeQuantize, WholeCheckpoints
from autosample.training.pieces import put_together
from autosample.training.sharding import blocks, prepare_sharding

EPOCHS, BATCHES = 2, 4
# no batch norm: each process has statistics of its own
PLAIN = {"model_args": {"norm": False}}
# a larger eps, so rounding of gradients that are almost zero does not become a step
ADAM = {"optimizer_args": {"eps": 1e-5}}

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
    "accumulation": ({"spec": "folded", **PLAIN, **ADAM}, {"accumulate_grad_batches": 2}, True),
    "bf16": ({"spec": "folded", **PLAIN, **ADAM}, {"precision": "bf16-mixed"}, False),
}
QUICK = ("folded",)


def sharding(**options):
    return ModelParallelStrategy(
        **{"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False, **options}
    )


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
        torch.manual_seed(0)
        model, keep = Classifier(**{"model": "digitnet", "ratio": 4, "lr": 3e-3, **settings}), Keep()
        several = {"devices": 2, "strategy": strategy() if callable(strategy) else strategy} if strategy else {}
        short = {"max_epochs": EPOCHS, "limit_train_batches": BATCHES, "limit_val_batches": 0}
        loop = trainer(**{**short, **several, **options, "callbacks": [keep, *options.get("callbacks", ())]})
        loop.fit(model, datamodule=data or digits(batch_size=16 if strategy else 32), ckpt_path=ckpt_path)
        if strategy is sharding:
            assert isinstance(model.net, FSDPModule)
            assert all(isinstance(p, DTensor) for p in model.net.parameters())
            assert not any(isinstance(t, DTensor) for t in keep.seen[-1].values())
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
    (parts, whole), (others, _) = in_two(lambda: [fit(settings, how, **options) for how in (sharding, "ddp")])
    assert len(parts) == EPOCHS * BATCHES + 1
    check_near(parts, whole, rtol=1e-5, atol=1e-6)
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
            fit(settings, sharding, **keeping(folder)),
            fit(settings, sharding, ckpt_path=folder / middle, **again),
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
        (other, _) = in_two(lambda: fit(settings, sharding, ckpt_path=alone / middle, **keeping(alone)))
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
            fit(settings, sharding, **two, callbacks=[Save()], plugins=[WholeCheckpoints()]),
            fit(settings, sharding, **two, ckpt_path=folder / "open.ckpt"),
        ]
    )
    assert load_file(folder / "open.ckpt")["gradients"]["stages.1.conv.summary"].any()
    check_near(gone_on, straight[3:], rtol=0, atol=0)


def average():
    return EMAWeightAveraging(decay=0.9)


def stochastic():
    return StochasticWeightAveraging(1e-3)


#: what is refused: settings of the classifier, callbacks of the trainer, what the message says was given
REFUSED = {
    "learned positions": ({"spec": "autosample", "spec_args": {"options": {"afford": 10}}}, (), "the rule interpol"),
    "nes": ({"spec": "nes"}, (), "the rule indexed"),
    "dfsnet": ({"spec": "dfsnet"}, (), "the rule interpol"),
    "learned choice": ({"spec": "kmeans", "spec_args": {"rule": "categorical"}}, (), "the rule categorical"),
    "conditioned": ({"spec": "conditioned"}, (), "the rule conditioned"),
    "sum-product": ({"spec": "strassen"}, (), "the rule strassen"),
    "blocks": ({"spec": "folded", "spec_args": {"options": {"assignment": "learned"}}}, (), "the rule folded"),
    "signs": ({"spec": "folded", "spec_args": {"options": {"signs": "learned"}}}, (), "the rule folded"),
    "two folds": ({"spec": "folded", "spec_args": {"options": {"mixing": "two"}}}, (), "the rule folded"),
    "levels": ({"spec": "folded"}, (FakeQuantize,), "FakeQuantize"),
    "average": ({"spec": "folded"}, (average,), "EMAWeightAveraging"),
    "mean": ({"spec": "folded"}, (stochastic,), "StochasticWeightAveraging"),
    "penalty": ({"spec": "dense"}, (ClusterPenalty,), "ClusterPenalty"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_numbers_between_steps_is_refused(classifier, trainer, kind):
    settings, callbacks, told = REFUSED[kind]
    loop = trainer(devices=2, strategy=sharding(), callbacks=[make() for make in callbacks])
    model = classifier(**settings)
    with pytest.raises(ConfigError, match=rf"between steps, got {told}.*: use --trainer.strategy ddp$"):
        prepare_sharding(loop, model, model.net)
    assert "configure_model" not in vars(model)


class Fsdp(FSDPStrategy):
    """Lightning refuses its own class on a CPU."""


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (Fsdp, {}, r"got fsdp: use --trainer.strategy ModelParallelStrategy .*parallel_size 2 .*checkpoint false$"),
        (lambda: sharding(tensor_parallel_size=2), {}, r"for all 2 .* tensor_parallel_size 2: pass .*tensor_.*size 1$"),
        (lambda: sharding(data_parallel_size="auto"), {}, r"got data_parallel_size auto and .*: pass .*data_.*size 2 "),
        (lambda: sharding(save_distributed_checkpoint=True), {}, r"hold pickles, got .*: pass .*_checkpoint false$"),
        (sharding, {"sync_batchnorm": True}, r"got sync_batchnorm: leave it out, or use --trainer.strategy ddp$"),
    ],
)
def test_other_settings_of_strategies_are_refused(classifier, trainer, strategy, options, message):
    model = classifier(spec="folded")
    with pytest.raises(ConfigError, match=message):
        prepare_sharding(trainer(devices=2, strategy=strategy(), **options), model, model.net)


def test_a_single_number_cannot_be_cut(classifier, trainer):
    model = classifier(spec="folded")
    model.net.scale = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(ConfigError, match='got "scale", a single number'):
        prepare_sharding(trainer(devices=2, strategy=sharding()), model, model.net)


def test_blocks_are_modules_in_rows_that_share_nothing():
    net: Any = create("test_resnet", num_classes=10)
    names = {id(module): name for name, module in net.named_modules()}

    def found():
        return [name for block in blocks(net) if not (name := names[id(block)]).startswith("conv1")]

    assert found() == ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    net.layer3[0].conv1.weight = net.layer4[0].conv1.weight
    assert found() == ["layer1.0", "layer2.0"]
    net.layer5 = net.layer1
    assert found() == ["layer2.0"]
