import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger

from autosample.errors import ConfigError
from autosample.nn import compressed_layers
from autosample.training import Classifier
from autosample.training.optim import SCHEDULERS


def test_fast_dev_run_trains_validates_and_leaves_no_files(classifier, digits, trainer, tmp_path):
    runner = trainer(fast_dev_run=True, enable_checkpointing=True)
    runner.fit(classifier(), datamodule=digits())
    assert runner.global_step == 1
    assert {"val/acc", "train/loss"} <= runner.callback_metrics.keys()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", ["autosample", "nes", "kmeans", "dense"])
def test_a_checkpoint_rebuilds_the_model_and_holds_only_plain_data(classifier, digits, trainer, tmp_path, preset):
    model = classifier(spec=preset, spec_args={"windows": 2} if preset == "autosample" else None)
    runner = trainer(max_epochs=1)
    runner.fit(model, datamodule=digits())
    runner.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]["spec"] == preset
    again = Classifier.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(again(x), model.eval()(x))
    assert [layer.spec for layer in compressed_layers(again).values()] == [
        layer.spec for layer in compressed_layers(model).values()
    ]


def test_label_smoothing(classifier):
    model = classifier(label_smoothing=0.2).eval()
    model.log = lambda *args, **options: None
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6)
    expected = F.cross_entropy(model(x), y, label_smoothing=0.2)
    torch.testing.assert_close(model.training_step((x, y), 0), expected)


@pytest.mark.parametrize("asked", [True, False])
def test_images_are_laid_out_as_asked(classifier, asked):
    model, seen = classifier(channels_last=asked, in_chans=3), []
    model.log = lambda *args, **options: None
    model.net.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    x, y = torch.randn(4, 3, 8, 8), torch.arange(4)
    model.training_step((x, y), 0)
    model.validation_step((x, y), 0)
    assert [one.is_contiguous(memory_format=torch.channels_last) for one in seen] == [asked, asked]
    assert all(torch.equal(one, x) for one in seen)


def test_signals_have_one_layout():
    model = Classifier("wave4", ratio=16, channels_last=True).eval()
    model.log = lambda *args, **options: None
    assert torch.isfinite(model.training_step((torch.randn(2, 1, 8000), torch.arange(2)), 0))


@pytest.mark.parametrize("count", [1, 6, 7])
@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_takes_any_batch(classifier, options, count):
    np.random.seed(0)  # noqa: NPY002 - timm draws the shares from these, and a share of 1 mixes nothing
    model = classifier(**options, label_smoothing=0.1)
    model.eval()
    model.log = lambda *args, **options: None
    x, y = torch.randn(count, 1, 8, 8), torch.arange(count)
    loss = model.training_step((x.clone(), y), 0)
    assert torch.isfinite(loss)
    plain = F.cross_entropy(model(x), y, label_smoothing=0.1)
    assert (loss == plain) == (count == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 7}, r"number of classes, got model.num_classes=7 and 10 .*: set model.num_classes=10"),
        ({"model": "resnet18"}, r"number of channels, got 3 in resnet18 and 1 in Digits: set model.in_chans=1"),
        ({"optimizer": "adamww"}, r'optimizer of timm is called "adamww": did you mean "adamw"'),
        ({"optimizer": "zzz"}, r'optimizer of timm is called "zzz": try adamw'),
        ({"optimizer_args": {"betta": 1}}, r'optimizer "adamw" does not accept .*betta'),
        ({"scheduler": "cosin"}, r'schedule of timm is called "cosin": did you mean "cosine"'),
        ({"scheduler": "plateau"}, r'schedule of timm is called "plateau": known: .*cosine'),
        ({"scheduler_args": {"min_rate": 1}}, r'schedule "cosine" does not accept .*min_rate'),
    ],
)
def test_mistakes_are_found_before_anything_is_written(classifier, digits, trainer, tmp_path, options, message):
    runner = trainer(logger=CSVLogger(tmp_path), enable_checkpointing=True)
    with pytest.raises(ConfigError, match=message) as error:
        runner.fit(classifier(**options), datamodule=digits())
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_every_schedule_trains(classifier, digits, trainer):
    for name in SCHEDULERS:
        runner = trainer(max_epochs=1, limit_train_batches=6, limit_val_batches=0)
        runner.fit(classifier(scheduler=name), datamodule=digits(batch_size=2))
        assert runner.global_step == 6


def test_the_cosine_climbs_to_its_peak_and_falls_to_its_end(classifier, digits, trainer):
    rates = []

    class Watch(Classifier):
        def on_train_batch_end(self, *args):
            rates.append([group["lr"] for group in self.optimizers().param_groups])

    model = Watch(**{**classifier().hparams, "warmup": 0.25})
    trainer(max_epochs=4, limit_train_batches=5, limit_val_batches=0).fit(model, datamodule=digits())
    groups = [group["name"] for group in model.trainer.optimizers[0].param_groups]
    weights = [step[groups.index("weights")] for step in rates]
    assert max(weights) == pytest.approx(3e-3, rel=0.15)
    assert weights.index(max(weights)) in (3, 4, 5)
    assert weights[-1] < 3e-4
    assert max(step[groups.index("offsets@0.2")] for step in rates) == pytest.approx(0.2, rel=0.15)


def test_warm_start_fits_the_weights_that_the_model_has(classifier):
    warm, cold = classifier(warm_start=True), classifier()
    assert all(layer.fit_error is not None and layer.fit_error < 1 for layer in compressed_layers(warm).values())
    assert all(layer.fit_error is None for layer in compressed_layers(cold).values())


def test_data_with_other_arguments_of_the_same_name_can_be_logged(classifier, digits, trainer, tmp_path):
    runner = trainer(max_epochs=1, logger=CSVLogger(tmp_path))
    runner.fit(classifier(seed=3), datamodule=digits(seed=4))
    logged = runner.logger.experiment.hparams
    assert (logged["model.seed"], logged["seed"]) == (3, 4)
