"""Two processes hold the same net after every step, and it is the net of one process with their batches together."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

from autosample.training import FakeQuantize

EPOCHS, BATCHES = 2, 4
BLOCKS = {"assignment": "learned", "every": 3, "moves": 0.5}
# no batch norm: each process has statistics of its own
PLAIN = {"model_args": {"norm": False}}


def folded(**options):
    return {"spec": "folded", "spec_args": {"options": {"freeze_at": 0.6, **options}}, **PLAIN}


def average():
    return EMAWeightAveraging(decay=0.9)


#: settings of the classifier, and callbacks of the trainer
KINDS = {
    "learned positions": ({"spec": "autosample", "spec_args": {"options": {"freeze_at": 0.6}}, **PLAIN}, ()),
    "dfsnet": ({"spec": "dfsnet", **PLAIN}, ()),
    "learned blocks": (folded(**BLOCKS), ()),
    "learned signs": (folded(signs="learned", rate=0.3), ()),
    "two folds": (folded(mixing="two"), ()),
    "signs and two folds": (folded(signs="learned", rate=0.3, mixing="two"), ()),
    "conditioned": ({"spec": "conditioned", **PLAIN}, ()),
    "sum-product": ({"spec": "strassen", "spec_args": {"options": {"ternary_at": 0.3, "freeze_at": 0.6}}}, ()),
    "linear levels": (folded(), (lambda: FakeQuantize(4, start=0.3),)),
    "codebook": (folded(), (lambda: FakeQuantize(3, "codebook", start=0.3),)),
    "levels of each filter": (folded(), (lambda: FakeQuantize(4, "per-filter", start=0.3),)),
    "average": (folded(**BLOCKS), (average,)),
    "average of levels": (folded(signs="learned", rate=0.3), (lambda: FakeQuantize(4, start=0.3), average)),
}
# what they learn is exact, and must change in these trainings
LEARN = {
    "learned positions": ".offsets",
    "learned blocks": ".moves.present_bits",
    "learned signs": ".signs.positive_bits",
    "sum-product": "_entries_bits",
    "average": ".moves.present_bits",
}
# their layers have batch norms, so one process with a larger batch is another net
NORMED = {"sum-product"}


class Keep(pl.Callback):
    """Keeps the net, and its average, after every step and at the end; each process in a file of its own."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def state(self, trainer, module):
        averages = [c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging)]
        nets = {"net": module.net, **({"average": averages[0]._average_model.module.net} if averages else {})}
        return {f"{n}.{key}": t.clone() for n, net in nets.items() for key, t in net.state_dict().items()}

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.append(self.state(trainer, module))

    def on_fit_end(self, trainer, module):
        self.seen.append(self.state(trainer, module))
        torch.save(self.seen, self.folder / f"{trainer.global_rank}.pt")


@pytest.fixture
def states(classifier, digits, trainer, tmp_path, monkeypatch):
    """Trains a kind in so many processes; the states of each process, in the order of its steps."""
    monkeypatch.setenv("MASTER_PORT", "0")
    if torch.cuda.is_available():
        pytest.skip("a process that uses a GPU cannot be forked")

    def train(kind: str, processes: int) -> list[list[dict]]:
        monkeypatch.delenv("MASTER_PORT", raising=False)  # else the one of the last time
        settings, callbacks = KINDS[kind]
        folder = tmp_path / str(processes)
        folder.mkdir()
        torch.manual_seed(0)
        # a larger eps, so rounding of gradients that are almost zero does not become a step
        model = classifier(optimizer_args={"eps": 1e-6}, **settings)
        loop = trainer(
            max_epochs=EPOCHS,
            limit_train_batches=BATCHES,
            limit_val_batches=0,  # it would make the buffers of all processes equal
            precision="64-true",  # so rounding changes no selection
            callbacks=[*(make() for make in callbacks), Keep(folder)],
            **({"devices": processes, "strategy": "ddp_fork"} if processes > 1 else {}),
        )
        loop.fit(model, datamodule=digits(batch_size=32 // processes))
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]

    return train


QUICK = ("signs and two folds",)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in QUICK else pytest.mark.slow) for k in KINDS])
def test_two_processes_train_as_one(states, kind):
    first, second = states(kind, 2)
    assert len(first) == len(second) == EPOCHS * BATCHES + 1
    for step, (mine, theirs) in enumerate(zip(first, second, strict=True)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            own = "running_" in name and step < EPOCHS * BATCHES  # statistics are shared before the next step
            assert own or torch.equal(tensor, theirs[name]), (step, name)
    if kind in LEARN:
        changed = [name for name, t in first[-1].items() if LEARN[kind] in name and not torch.equal(t, first[0][name])]
        assert changed
    if kind in NORMED:
        return
    (alone,) = states(kind, 1)
    # codebooks are learned in float32
    close = {"rtol": 1e-3, "atol": 1e-5} if kind == "codebook" else {"rtol": 1e-5, "atol": 1e-7}
    for step, (mine, theirs) in enumerate(zip(first, alone, strict=True)):
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], msg=lambda told, at=(step, name): f"{at}: {told}", **close)
