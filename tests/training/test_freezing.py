"""What follows a freeze: batch norms' statistics begin anew, and the accuracy before and after it is logged."""

import csv
import warnings
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from autosample.nn import compressed_layers
from autosample.training import FakeQuantize, OffsetLog, parameter_groups
from autosample.training.freezing import batch_norms
from autosample.training.optim import build_scheduler

LEARNED = {
    "dfsnet": {"spec": "dfsnet", "spec_args": {"options": {"freeze_at": 0.5}}},
    "nes": {"spec": "nes", "spec_args": {"options": {"freeze_at": 0.5}}},
    "categorical": {"spec": "categorical", "spec_args": {"options": {"freeze_at": 0.5}}},
}


class Norms(pl.Callback):
    """Mean and variance of the first norm's input in each batch, and its statistics after it."""

    def __init__(self, momentum=0.1):
        self.momentum, self.seen, self.kept = momentum, [], []

    def on_train_start(self, trainer, module):
        self.norm = batch_norms(module)[0]
        self.norm.momentum = self.momentum
        self.norm.register_forward_pre_hook(lambda norm, args: self.seen.append(args[0].detach().double()))

    def on_train_batch_end(self, *_):
        self.kept.append((self.norm.running_mean.clone(), self.norm.running_var.clone()))

    def moments(self, i):
        x = self.seen[i]
        return x.mean((0, 2, 3)), x.var((0, 2, 3))


def fit(model, trainer, digits, *callbacks, **options):
    steps = {"max_epochs": 1, "limit_train_batches": 8, "limit_val_batches": 0}
    trainer(**{**steps, **options}, callbacks=[*callbacks]).fit(model, datamodule=digits())


def check_restart(norms, at, momentum=0.1):
    """After batch `at` the statistics are those of that batch; then they are averaged as always."""
    for part in (0, 1):
        torch.testing.assert_close(norms.kept[at][part].double(), norms.moments(at)[part], rtol=1e-4, atol=1e-5)
        expected = (1 - momentum) * norms.moments(at)[part] + momentum * norms.moments(at + 1)[part]
        torch.testing.assert_close(norms.kept[at + 1][part].double(), expected, rtol=1e-4, atol=1e-5)
    before = (1 - momentum) * norms.kept[at - 2][0].double() + momentum * norms.moments(at - 1)[0]
    torch.testing.assert_close(norms.kept[at - 1][0].double(), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LEARNED)
def test_norms_begin_anew_when_selections_freeze(classifier, digits, trainer, kind):
    norms = Norms()
    fit(classifier(**LEARNED[kind]), trainer, digits, norms)
    check_restart(norms, 4)
    assert norms.norm.momentum == 0.1


def test_norms_begin_anew_once_in_a_step_of_several_batches(classifier, digits, trainer):
    norms = Norms()
    fit(classifier(**LEARNED["dfsnet"]), trainer, digits, norms, accumulate_grad_batches=2)
    check_restart(norms, 4)  # two steps of two batches each came before


def test_norms_begin_anew_if_another_callback_freezes(classifier, digits, trainer):
    norms = Norms()
    fit(classifier(**LEARNED["dfsnet"]), trainer, digits, FakeQuantize(8, start=0.5), norms)
    check_restart(norms, 4)


def test_a_norm_that_averages_all_batches_forgets_those_before(classifier, digits, trainer):
    norms = Norms(momentum=None)
    fit(classifier(**LEARNED["dfsnet"]), trainer, digits, norms)
    expected = torch.stack([norms.moments(i)[0] for i in range(4, 8)]).mean(0)
    torch.testing.assert_close(norms.norm.running_mean.double(), expected, rtol=1e-4, atol=1e-5)


def test_norms_that_the_user_has_fixed_stay(classifier, digits, trainer):
    class Fix(pl.Callback):
        def on_train_start(self, trainer, module):
            self.norm = batch_norms(module)[1].eval()
            self.before = self.norm.running_var.clone()

    fix = Fix()
    fit(classifier(**LEARNED["dfsnet"]), trainer, digits, fix)
    assert torch.equal(fix.norm.running_var, fix.before)


def test_fixed_rules_leave_norms_alone(classifier, digits, trainer):
    norms = Norms()
    fit(classifier(spec="random"), trainer, digits, norms)
    mean = torch.zeros_like(norms.moments(0)[0])
    for i in range(8):
        mean = 0.9 * mean + 0.1 * norms.moments(i)[0]
    torch.testing.assert_close(norms.norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)


def test_a_training_that_never_froze_ends_with_new_statistics(classifier, digits, trainer):
    norms = Norms()
    model = classifier(spec="dfsnet", spec_args={"options": {"freeze_at": 1.0}})
    fit(model, trainer, digits, norms)
    assert len(norms.seen) == 16  # eight batches of the training, and the same number again
    expected = torch.stack([norms.moments(i)[0] for i in range(8, 16)]).mean(0)
    torch.testing.assert_close(norms.norm.running_mean.double(), expected, rtol=1e-4, atol=1e-5)
    assert norms.norm.momentum == 0.1
    assert all(layer.offsets.is_frozen for layer in compressed_layers(model).values())


@pytest.mark.parametrize("freeze_at", [0.5, 1.0])
def test_nets_without_norms_freeze_too(classifier, digits, trainer, freeze_at):
    model = classifier(spec="nes", model_args={"norm": False}, spec_args={"options": {"freeze_at": freeze_at}})
    fit(model, trainer, digits)
    assert all(layer.offsets.is_frozen for layer in compressed_layers(model).values())


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", LEARNED)
def test_the_accuracy_before_and_after_the_freeze_is_logged(classifier, digits, trainer, tmp_path, kind):
    model, found = classifier(**LEARNED[kind]), []

    class Score(pl.Callback):
        """Accuracy on the validation data before the freezing step, and at the epoch's end."""

        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step in (4, 8):
                module.eval()
                batches = list(trainer.datamodule.val_dataloader())
                with torch.no_grad():
                    right = sum(int((module(x).argmax(1) == y).sum()) for x, y in batches)
                module.train()
                found.append(right / sum(len(y) for _, y in batches))

    options = {"limit_val_batches": 1.0, "logger": CSVLogger(tmp_path)}
    fit(model, trainer, digits, Score(), OffsetLog(), **options)
    (log,) = tmp_path.rglob("metrics.csv")
    logged = [[row[f"val/acc_{name}_freeze"] for row in table(log)] for name in ("before", "after")]
    values = [[float(value) for value in rows if value] for rows in logged]
    assert values == [[pytest.approx(found[0])], [pytest.approx(found[1])]]


def test_the_speed_of_offsets_is_logged_in_rows_a_step(classifier, digits, trainer, tmp_path):
    model, places = classifier(**LEARNED["dfsnet"]), []

    class Copy(pl.Callback):
        def on_train_start(self, trainer, module):
            self.on_train_batch_end(trainer, module)

        def on_train_batch_end(self, trainer, module, *_):
            layers = compressed_layers(module).values()
            places.append([layer.offsets.soft_offsets().detach().clone() for layer in layers])

    fit(model, trainer, digits, Copy(), OffsetLog(), logger=CSVLogger(tmp_path))
    rows = table(next(tmp_path.rglob("offsets.csv")))
    for i, row in enumerate(rows):
        path = sum(float((b[i] - a[i]).abs().mean()) for a, b in pairwise(places[:5]))
        assert float(row["speed"]) == pytest.approx(path / 8, rel=1e-4)  # they stand still in the last four steps
        assert 0 < float(row["speed"]) < 0.02


def test_offsets_that_diverge_are_told(classifier, digits, trainer, tmp_path):
    """Measured: Adam's steps are at most its rate, and near it where gradients keep their sign."""
    options = {"unit": "positions", "rate": 30.0, "freeze_at": 1.0}
    model = classifier(spec="dfsnet", spec_args={"options": options}, scheduler="none")
    told = r"learned offsets diverge in epoch 0: they move by (1[0-9]|2[0-9]|30)\.?\d* rows a step in \"net.stages"
    with (
        pytest.warns(UserWarning, match="should move by at most a row a step, got up to 30 rows"),
        pytest.warns(UserWarning, match=told),
    ):
        fit(model, trainer, digits, OffsetLog(), logger=CSVLogger(tmp_path))


def test_rates_follow_the_schedule_of_the_weights(classifier):
    """Warm-up and decay are shares of each group's own rate, though timm's floors are absolute."""
    model = classifier(spec="dfsnet").net
    for lr in (3e-3, 0.5):
        groups = parameter_groups(model, lr, 0.05)
        optimizer = torch.optim.SGD(groups)
        scheduler = build_scheduler(optimizer, "cosine", lr, epochs=10, per_epoch=4, warmup=0.2)
        own = {"offsets@0.02": 0.02}
        for step in range(41):
            rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
            assert set(own) < set(rates)
            for name, rate in rates.items():
                assert rate / own.get(name, lr) == pytest.approx(rates["weights"] / lr)
            if step == 0:
                assert rates["weights"] == pytest.approx(lr / 25)
            scheduler.step_update(step + 1)


@pytest.mark.parametrize(("options", "rows"), [({"unit": "logit", "rate": None}, 0.5), ({"rate": 1.5}, 1.5)])
def test_fast_offsets_are_told(classifier, options, rows):
    model = classifier(spec="dfsnet", spec_args={"options": {**options}}, ratio=2).net
    fastest = max(layer.offsets.lattice.last for layer in compressed_layers(model).values())
    told = f'{1e-3 * fastest / 4 if "unit" in options else rows:.3g} rows in "stages'
    with pytest.warns(UserWarning, match=f"learned offsets should move by at most a row a step, got up to {told}"):
        parameter_groups(model, 1e-3, 0.05)


def test_usual_rates_are_not_told(classifier):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for spec in ("dfsnet", "nes", "autosample", "categorical"):
            parameter_groups(classifier(spec=spec).net, 3e-3, 0.05)


def test_offsets_that_are_not_finite_stop_the_training(classifier, digits, trainer):
    from autosample.errors import TrainingError

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if index == 1:
                rule = module.net.get_submodule("stages.2.conv.offsets")
                rule.value.register_hook(lambda grad: grad * float("nan"))

    with pytest.raises(TrainingError, match=r"stages\.2\.conv\.offsets\.centred"):
        fit(classifier(**LEARNED["dfsnet"]), trainer, digits, Poison())


def test_validation_data_without_a_length_are_read_to_their_end(classifier, trainer, tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            torch.manual_seed(0)
            yield from ((torch.randn(1, 8, 8), i % 10) for i in range(32))

    loader = torch.utils.data.DataLoader(Endless(), 16)
    train = torch.utils.data.DataLoader(list(Endless()), 16)
    options = {"limit_train_batches": 2, "limit_val_batches": 1.0, "max_epochs": 4, "logger": CSVLogger(tmp_path)}
    trainer(**options, callbacks=[OffsetLog()]).fit(classifier(**LEARNED["dfsnet"]), train, loader)
    rows = table(next(tmp_path.rglob("metrics.csv")))
    assert sum(bool(row["val/acc_before_freeze"]) for row in rows) == 1


def test_norms_are_found_by_their_class():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm3d(2).eval())
    assert batch_norms(net) == [net[0]]
