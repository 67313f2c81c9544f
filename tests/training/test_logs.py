import csv
import json

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from autosample.nn import compressed_layers
from autosample.training import Classifier, OffsetLog, PredictionFile, SizeReport
from autosample.training.callbacks import BestCheckpoint, LastCheckpoint, WaitLog


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_offsets_csv_has_a_line_per_layer_and_epoch(classifier, digits, trainer, tmp_path):
    model = classifier(spec="nes", spec_args={"options": {"freeze_at": 0.5}})
    runner = trainer(max_epochs=2, callbacks=[OffsetLog()], logger=CSVLogger(tmp_path))
    runner.fit(model, datamodule=digits())
    lines = read(tmp_path / "lightning_logs" / "version_0" / "offsets.csv")
    names = list(compressed_layers(model))
    assert [(line["epoch"], line["layer"]) for line in lines] == [(e, n) for e in "01" for n in names]
    assert [line["frozen"] for line in lines] == ["False"] * len(names) + ["True"] * len(names)
    assert all(0 <= float(line["share_moved"]) <= 1 for line in lines)
    assert all(float(line["p10"]) <= float(line["p50"]) <= float(line["p90"]) for line in lines)


def test_models_without_learned_offsets_write_no_offsets(classifier, digits, trainer, tmp_path):
    runner = trainer(max_epochs=1, callbacks=[OffsetLog()], logger=CSVLogger(tmp_path))
    runner.fit(classifier(spec="wsnet"), datamodule=digits())
    assert not list(tmp_path.rglob("offsets.csv"))


def test_the_written_report_is_that_of_the_model(classifier, digits, trainer, tmp_path):
    model = classifier()
    runner = trainer(max_epochs=1, callbacks=[SizeReport()], logger=CSVLogger(tmp_path))
    runner.fit(model, datamodule=digits())
    folder = tmp_path / "lightning_logs" / "version_0"
    expected = model.size_report()
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(expected.to_dict()))
    assert [line["name"] for line in read(folder / "report.csv")][: len(expected.rows)] == [
        r.name for r in expected.rows
    ]
    assert all(row.name in (folder / "report.md").read_text() for row in expected.rows)
    logged = next(line for line in read(folder / "metrics.csv") if line["size/stored_bytes"])
    assert float(logged["size/stored_bytes"]) == expected.stored_bytes


class Batches(torch.utils.data.IterableDataset):
    """Four batches; each moves a clock."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def __iter__(self):
        for _ in range(4):
            self.clock[0] += self.seconds
            yield torch.ones(1, 1)


class Timed(pl.LightningModule):
    """A training step moves a clock by 1, one of validation by 100."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.fc = clock, torch.nn.Linear(1, 1)

    def training_step(self, batch):
        self.clock[0] += 1
        return self.fc(batch).sum()

    def validation_step(self, batch):
        self.clock[0] += 100

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 2}])
def test_the_share_of_time_that_waits_for_data(trainer, monkeypatch, options):
    clock = [0]
    monkeypatch.setattr("autosample.training.callbacks.time.perf_counter", lambda: clock[0])
    loaders = (torch.utils.data.DataLoader(Batches(clock, seconds), batch_size=None) for seconds in (3, 7))
    runner = trainer(max_epochs=2, limit_train_batches=4, callbacks=[WaitLog()], **options)
    runner.fit(Timed(clock), *loaders)
    assert runner.callback_metrics["train/data_wait"] == 12 / 16


def test_predictions_are_written_in_order(classifier, digits, trainer, tmp_path):
    model, data = classifier(), digits(batch_size=100)
    runner = trainer(callbacks=[PredictionFile()], logger=CSVLogger(tmp_path))
    scores = runner.predict(model, data)
    lines = read(next(tmp_path.rglob("predictions.csv")))
    assert [int(line["index"]) for line in lines] == list(range(data.sizes["test"]))
    assert [int(line["class"]) for line in lines] == [c for batch in scores for c in batch.argmax(1).tolist()]


def test_the_last_checkpoint_is_renewed_though_the_best_is_not(classifier, digits, trainer, tmp_path):
    class Worse(Classifier):
        def on_validation_epoch_end(self):
            self.log("val/acc", 1.0 / (1 + self.current_epoch))

        def _evaluate(self, stage, batch):
            pass

    best, last = BestCheckpoint(), LastCheckpoint()
    runner = trainer(max_epochs=3, callbacks=[best, last], enable_checkpointing=True)
    runner.fit(Worse(**classifier().hparams), datamodule=digits())
    epochs = {path.name: torch.load(path, weights_only=True)["epoch"] for path in tmp_path.rglob("*.ckpt")}
    assert epochs == {"epoch=0-step=3.ckpt": 0, "last.ckpt": 2}


@pytest.mark.parametrize(("later", "best_epoch"), [([0.3, 0.4], 1), ([0.3, 0.9], 3)])
def test_the_best_of_an_earlier_run_stays_the_best(classifier, digits, trainer, tmp_path, later, best_epoch):
    """A training that goes on in another folder does not take its first epoch for the best."""

    class Told(Classifier):
        def on_validation_epoch_end(self):
            self.log("val/acc", [0.5, 0.7, *later][self.current_epoch])

        def _evaluate(self, stage, batch):
            pass

    for epochs, folder, start in ((2, "first", None), (4, "second", tmp_path / "first/checkpoints/last.ckpt")):
        best, last = BestCheckpoint(), LastCheckpoint()
        root = tmp_path / folder
        runner = trainer(max_epochs=epochs, callbacks=[best, last], enable_checkpointing=True, default_root_dir=root)
        runner.fit(Told(**classifier().hparams), datamodule=digits(), ckpt_path=start)
    assert torch.load(best.best_model_path, weights_only=True)["epoch"] == best_epoch
    kept = sorted(torch.load(path, weights_only=True)["epoch"] for path in tmp_path.rglob("epoch*.ckpt"))
    assert kept == sorted({1, best_epoch})


def test_checkpoints_need_no_validation_set(classifier, digits, trainer, tmp_path):
    callbacks = [BestCheckpoint(), LastCheckpoint()]
    runner = trainer(max_epochs=2, limit_val_batches=0, callbacks=callbacks, enable_checkpointing=True)
    runner.fit(classifier(), datamodule=digits())
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["last.ckpt"]


@pytest.mark.slow
def test_wandb_works_offline_without_login(classifier, digits, trainer, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    loggers = [CSVLogger(tmp_path), WandbLogger(project="autosample", save_dir=tmp_path, offline=True)]
    runner = trainer(max_epochs=1, callbacks=[OffsetLog(), SizeReport()], logger=loggers)
    runner.fit(classifier(spec="nes"), datamodule=digits())
    import wandb

    wandb.finish()
    assert list(tmp_path.rglob("offline-run-*"))
    assert list(tmp_path.rglob("offsets.csv"))
