"""The data sets in a Trainer and under jsonargparse."""

import jsonargparse
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from autosample.data import DATASETS, AudioCSV, ClassificationData, Digits


class Recorder(pl.LightningModule):
    """A linear classifier that notes the labels of every training batch."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        self.seen: list[tuple[int, int, list[int], float]] = []

    def training_step(self, batch, index):
        x, y = batch
        self.seen.append((self.trainer.current_epoch, index, y.tolist(), float(x.sum())))
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch, index):
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def test_step(self, batch, index):
        self.log("test_count", float(len(batch[1])), reduce_fx="sum")

    def predict_step(self, batch, index):
        return batch[1]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def trainer(folder, **options):
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False} | options
    return pl.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **options)


def digits(**options):
    return Digits(batch_size=256, padding=1, **options)


def test_fit_validate_test_predict(tmp_path):
    run, module, data = trainer(tmp_path, max_epochs=2, enable_checkpointing=False), Recorder(), digits()
    run.fit(module, datamodule=data)
    epochs = [[y for e, _, y, _ in module.seen if e == epoch] for epoch in (0, 1)]
    assert len(epochs[0]) == len(epochs[1]) == 5
    assert epochs[0] != epochs[1]
    assert "val_loss" in run.callback_metrics
    run.validate(module, datamodule=data, verbose=False)
    assert run.test(module, datamodule=data, verbose=False)[0]["test_count"] == 359
    predicted = torch.cat(run.predict(module, datamodule=data))
    assert torch.equal(predicted, data.examples.y[data.examples.test])


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("options", [{"every_n_epochs": 1}, {"every_n_train_steps": 7}])
def test_resumed_run_sees_the_batches_of_the_whole_run(tmp_path, resident, options):
    whole = Recorder()
    keep = ModelCheckpoint(tmp_path, filename="{epoch}-{step}", save_top_k=-1, **options)
    trainer(tmp_path, max_epochs=4, callbacks=[keep]).fit(whole, datamodule=digits(resident=resident))
    start = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.split("step=")[1]))[1]
    steps = int(start.stem.split("step=")[1])
    resumed = Recorder()
    run = trainer(tmp_path, max_epochs=4, enable_checkpointing=False)
    run.fit(resumed, datamodule=digits(resident=resident), ckpt_path=str(start), weights_only=True)
    assert resumed.seen == whole.seen[steps:]
    assert 0 < steps < len(whole.seen)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfit_batches_and_predict_without_residence(tmp_path):
    module, data = Recorder(), digits(resident=False)
    run = trainer(tmp_path, max_epochs=1, overfit_batches=2, enable_checkpointing=False, limit_val_batches=0)
    run.fit(module, datamodule=data)
    assert [len(y) for _, _, y, _ in module.seen] == [256, 256]
    predicted = torch.cat(trainer(tmp_path).predict(module, datamodule=data))
    assert torch.equal(predicted, data.examples.y[data.examples.test])


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_no_validation_part_means_no_validation(tmp_path):
    class NoValidation(Digits):
        validates_on_test = False

    run = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    run.fit(Recorder(), datamodule=NoValidation(batch_size=256, val_fraction=0))
    assert "val_loss" not in run.callback_metrics


def test_device_copy_is_freed_and_made_once(tmp_path):
    data = digits()
    data.train_dataloader()
    kept = data._on_device
    data.test_dataloader()
    assert data._on_device is kept
    data.teardown("fit")
    assert data._on_device is None


# torch 2.15 deprecates what Lightning 2.6 calls
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.mark.parametrize("kind", DATASETS.values(), ids=DATASETS)
def test_command_line_knows_all_arguments(kind):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClassificationData, "data")
    path = f"autosample.data.{kind.__name__}"
    given = ["--data.batch_size=8", "--data.seed=3", "--data.num_workers=1", "--data.val_fraction=0.2"]
    config = parser.parse_args([f"--data={path}", "--data.root=/somewhere", *given])
    made = parser.instantiate(config).data
    assert type(made) is kind
    assert (made.batch_size, made.seed, made.num_workers) == (8, 3, 1)
    assert made.hparams["batch_size"] == 8
    assert made.hparams["val_fraction"] == 0.2
    assert len(made.input_shape) in (2, 3)


def test_hparams_hold_own_and_common_arguments():
    hparams = AudioCSV("there", table="t.csv", gain_db=2.0, seed=4).hparams
    assert hparams["table"] == "t.csv"
    assert hparams["gain_db"] == 2.0
    assert hparams["seed"] == 4
    assert hparams["root"] == "there"
    assert hparams["drop_last"] is True
