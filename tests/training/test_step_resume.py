"""Going on from a checkpoint of any step gives the very numbers of going straight through."""

from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

from autosample.cli.fit import _callbacks
from autosample.data import ImageFolder
from autosample.training import FakeQuantize
from autosample.training.labels import metrics
from autosample.training.resuming import open_parts, set_metrics

EPOCHS, BATCHES = 2, 5
MIXED = {"mixup": 0.4}
KINDS = {
    "mixing": {"net": {"mixup": 0.4, "cutmix": 1.0}},
    "nes, moved images": {"net": {"spec": "nes", **MIXED}, "data": {"padding": 1, "flip": True}},
    "nes, all of the paper": {
        "net": {"spec": "nes", "spec_args": {"options": {"reads": "places", "forward": "map"}}, **MIXED}
    },
    "dfsnet": {"net": {"spec": "dfsnet", **MIXED}},
    "categorical": {"net": {"spec": "random", "spec_args": {"rule": "categorical", "options": {"start": "random"}}}},
    "kmeans": {"net": {"spec": "kmeans", "spec_args": {"rule": "categorical"}}},
    "dropout": {"net": {"model": "mlp784", "spec": "random", "model_args": {"drop_rate": 0.5}}, "size": 28},
    "linear levels": {"net": {"spec": "wsnet", "cutmix": 1.0}, "callbacks": [lambda: FakeQuantize(4, start=0.3)]},
    "codebook": {"net": MIXED, "callbacks": [lambda: FakeQuantize(3, "codebook", start=0.3)]},
    "folded": {"net": {"spec": "folded", **MIXED}, "callbacks": [lambda: FakeQuantize(4, start=0.3)]},
    "learned blocks": {"net": {"spec": "folded", "spec_args": {"options": {
        "assignment": "learned", "every": 3, "moves": 0.5, "freeze_at": 0.8}}, **MIXED}},
    "learned signs": {"net": {"spec": "folded", "spec_args": {"options": {
        "signs": "learned", "mixing": "two", "rate": 0.3, "freeze_at": 0.5}}, **MIXED}},
    "conditioned": {"net": {"spec": "conditioned", **MIXED}},
    "sum-product": {"net": {"spec": "strassen", "spec_args": {"options": {
        "ternary_at": 0.3, "freeze_at": 0.6}}, **MIXED}},
    "levels of each filter": {"net": MIXED, "callbacks": [lambda: FakeQuantize(4, "per-filter", start=0.3)]},
    "average": {"net": MIXED, "callbacks": [lambda: EMAWeightAveraging(decay=0.9)]},
    "average of levels": {
        "net": {"spec": "folded", **MIXED},
        "callbacks": [lambda: FakeQuantize(4, start=0.3), lambda: EMAWeightAveraging(decay=0.9)],
    },
    "average of blocks": {"net": {"spec": "folded", "spec_args": {"options": {
        "assignment": "learned", "every": 3, "moves": 0.5, "freeze_at": 0.8}}, **MIXED},
        "callbacks": [lambda: EMAWeightAveraging(decay=0.9)]},
    "no workers": {"net": MIXED, "data": {"resident": False, "padding": 1}},
    "workers": {"net": MIXED, "data": {"resident": False, "padding": 1, "num_workers": 2}},
    "files": {"net": {"num_classes": 2, "in_chans": 3, **MIXED}, "files": {"num_workers": 2}},
    "accumulated": {"net": MIXED, "trainer": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}},
    "until a step": {"net": MIXED, "trainer": {"max_epochs": -1, "max_steps": EPOCHS * BATCHES}},
}  # fmt: skip
# steps within an epoch and an epoch's last, of kinds that differ in what must be the same
QUICK = [
    ("mixing", 2),
    ("mixing", 5),
    ("codebook", 7),
    ("accumulated", 1),
    ("until a step", 5),
    ("learned blocks", 4),
]
# before and after the step in which offsets freeze
QUICK += [("dfsnet", 6), ("nes, all of the paper", 7)]
# before signs freeze, and with an average of levels that have started
QUICK += [("learned signs", 4), ("average of levels", 6)]


@pytest.fixture
def run(classifier, digits, trainer, tmp_path):
    """Trains a kind, from the start or from the checkpoint of a step; returns all that it ends with."""

    def images() -> ImageFolder:
        draw = np.random.default_rng(0)
        for part, name, count in [(p, n, c) for p, c in (("train", 50), ("val", 5)) for n in "ab"]:
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
        return ImageFolder(str(tmp_path), image_size=16, batch_size=16, resident=False, num_workers=2)

    def train(kind: str, step: int | None = None) -> dict:
        chosen = KINDS[kind]
        size = {"image_size": chosen["size"]} if "size" in chosen else {}
        data = images() if "files" in chosen else digits(**size, **chosen.get("data", {}))
        if step is not None:
            torch.manual_seed(99)  # what came before must not matter
        model = classifier(**chosen.get("net", {}))
        keep = ModelCheckpoint(tmp_path / "steps", filename="{step}", save_top_k=-1, every_n_train_steps=1)
        limits = {"max_epochs": EPOCHS, "limit_train_batches": BATCHES, "enable_checkpointing": True}
        callbacks = [*(make() for make in chosen.get("callbacks", ())), *_callbacks(), keep]
        loop = trainer(**{**limits, **chosen.get("trainer", {})}, callbacks=callbacks)
        path = None if step is None else tmp_path / "steps" / f"step={step}.ckpt"
        loop.fit(model, datamodule=data, ckpt_path=path)
        moments = loop.optimizers[0].state_dict()["state"]
        flat = {f"{i}.{name}": value for i, state in moments.items() for name, value in state.items()}
        rate = {"rate": torch.tensor(loop.optimizers[0].param_groups[0]["lr"])}
        logged = {name: loop.callback_metrics[name] for name in ("train/loss", "train/acc")}
        return {**model.state_dict(), **flat, **rate, **logged, "steps": torch.tensor(loop.global_step)}

    return train


def check(run, kind: str, steps: list[int] | None = None) -> int:
    """Compares going on from each of these steps (by default all) with going straight through."""
    expected = run(kind)
    last = int(expected["steps"])
    for step in steps or range(1, last):
        found = run(kind, step)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert torch.equal(torch.as_tensor(tensor), torch.as_tensor(expected[name])), (kind, step, name)
    return last - 1


@pytest.mark.parametrize(("kind", "step"), QUICK)
def test_going_on_within_an_epoch_is_bit_equal(run, kind, step):
    check(run, kind, [step])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_any_step_is_bit_equal(run, kind):
    assert check(run, kind) >= 5


def test_gradients_of_an_open_step_are_kept(classifier, digits, trainer, tmp_path):
    """A checkpoint between two batches of one step, as one that is written every few minutes."""

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 3:
                trainer.save_checkpoint(tmp_path / "open.ckpt")

    torch.manual_seed(0)
    whole = {"limit_train_batches": 8, "max_epochs": 1, "accumulate_grad_batches": 3}
    straight, again = classifier(mixup=0.4), classifier(mixup=0.4)
    trainer(**whole, callbacks=[Save()]).fit(straight, datamodule=digits())
    trainer(**whole).fit(again, datamodule=digits(), ckpt_path=tmp_path / "open.ckpt")
    expected = straight.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(("last", "failed"), [(False, False), (True, False), (False, True)])
def test_the_first_of_several_processes_gets_the_sums_of_all(last, failed):
    """Within an epoch; and no process waits for another that has failed."""

    def process(rank):
        progress = SimpleNamespace(is_last_batch=last)
        loop = SimpleNamespace(batch_progress=progress, _should_accumulate=lambda: False)
        return SimpleNamespace(
            training=True, world_size=2, interrupted=failed, is_global_zero=rank == 0,
            fit_loop=SimpleNamespace(epoch_loop=loop),
            strategy=SimpleNamespace(reduce=lambda value, reduce_op: 2 * value),  # both processes hold the same
        )  # fmt: skip

    def held():
        found = metrics(3, multilabel=False)
        found["loss"].update(torch.tensor(1.5), 4)
        found["on_train"].update(torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]), torch.tensor([0, 1]))
        return found

    parts = open_parts(process(0), torch.nn.Linear(1, 1), held())
    assert parts.keys() == (set() if last or failed else {"metrics"})
    first, second = held(), metrics(3, multilabel=False)
    set_metrics(process(0), first, parts.get("metrics", {}))
    set_metrics(process(1), second, parts.get("metrics", {}))
    assert float(first["loss"].count) == (8 if parts else 4)
    assert int(first["on_train"].tp) == (2 if parts else 1)
    assert float(second["loss"].count) == 0


class Ordered(list):
    """A loader of somebody else, with Lightning's protocol of loaders that know where they are."""

    at, first = 0, 0

    def __iter__(self):
        first, self.first = self.first, 0
        for place in range(first, len(self)):
            self.at = place + 1
            yield self[place]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.first = state["at"] % len(self)


def test_a_loader_of_the_users_gets_its_state_back(classifier, trainer, tmp_path):
    batches = [(torch.full((4, 1, 8, 8), float(i)), torch.zeros(4, dtype=torch.long)) for i in range(5)]
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole = {
        "limit_train_batches": 1.0,
        "limit_val_batches": 0,
        "max_epochs": 1,
        "enable_checkpointing": True,
        "callbacks": [keep],
    }
    trainer(**whole).fit(classifier(), Ordered(batches), Ordered(batches))
    seen = []
    again = classifier()
    again.register_forward_pre_hook(lambda module, args: seen.append(int(args[0].mean())))
    trainer(**whole).fit(again, Ordered(batches), Ordered(batches), ckpt_path=tmp_path / "step=2.ckpt")
    assert seen == [2, 3, 4]
