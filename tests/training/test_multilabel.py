"""Examples of several classes: loss, metric, mixing, and what is refused."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch.utils.data import DataLoader, TensorDataset

from autosample.errors import ConfigError
from autosample.training import Classifier
from autosample.training.callbacks import BestCheckpoint
from autosample.training.labels import count, metrics

X = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.rand(60, 4, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.1, 0.4, 0.5, 0.9])


class Several(pl.LightningDataModule):
    """Sixty small images with up to four classes each."""

    multilabel, num_classes, input_shape, class_names = True, 4, (1, 8, 8), tuple("abcd")
    preprocessing = {"input_size": [1, 8, 8]}  # noqa: RUF012
    sizes = {"train": 40, "val": 10, "test": 10}  # noqa: RUF012

    def _loader(self, first, last, shuffle=False):
        return DataLoader(TensorDataset(X[first:last], Y[first:last]), batch_size=10, shuffle=shuffle)

    def train_dataloader(self):
        return self._loader(0, 40, True)

    def val_dataloader(self):
        return self._loader(30, 60)

    test_dataloader = predict_dataloader = val_dataloader


def made(**options):
    return Classifier(**{"model": "digitnet", "num_classes": 4, "ratio": 4, "multilabel": True, **options})


def quiet(model):
    model.log = lambda *args, **options: None
    return model.eval()


def test_the_loss_is_binary_cross_entropy():
    model = quiet(made())
    wanted = F.binary_cross_entropy_with_logits(model(X), Y.float())
    torch.testing.assert_close(model.training_step((X, Y), 0), wanted)
    smooth = quiet(made(label_smoothing=0.2))
    smooth.load_state_dict(model.state_dict())
    wanted = F.binary_cross_entropy_with_logits(model(X), torch.where(Y, 0.9, 0.1))
    torch.testing.assert_close(smooth.training_step((X, Y), 0), wanted)
    assert torch.equal(model.predict_step((X, Y), 0), model(X).sigmoid())


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 500)])
def test_mixed_examples_have_mixed_labels(shape):
    model = made(mixup=0.5, label_smoothing=0.1)
    np.random.seed(0)  # noqa: NPY002 - timm draws the shares from these
    x = torch.randn(6, *shape)
    mixed, target = model.mix(x.clone(), Y[:6])
    share = ((mixed - x.flip(0)) / (x - x.flip(0))).median()
    assert 0.01 < share < 0.99
    torch.testing.assert_close(mixed, share * x + (1 - share) * x.flip(0))
    y = Y[:6].float()
    torch.testing.assert_close(target, share * y + (1 - share) * y.flip(0))


def test_mixing_takes_odd_batches_and_smooths():
    np.random.seed(0)  # noqa: NPY002
    model = quiet(made(mixup=0.5, label_smoothing=0.1))
    seen = []
    model.net.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    loss = model.training_step((X[:7].clone(), Y[:7]), 0)
    share = ((seen[0] - X[:6].flip(0)) / (X[:6] - X[:6].flip(0))).median()
    y = Y[:6].float() * 0.9 + 0.05
    wanted = F.binary_cross_entropy_with_logits(model(seen[0]), share * y + (1 - share) * y.flip(0))
    torch.testing.assert_close(loss, wanted)


def test_the_metric_is_the_mean_average_precision():
    metric = metrics(4, True)["on_val"]
    scores = torch.randn(60, 4, generator=torch.Generator().manual_seed(2)) + 2 * Y
    # scores of a batch may happen to be from 0 to 1
    for low, high in ((-9, 0.2), (0.2, 0.8), (0.8, 9)):
        rows = (scores[:, 0] > low) & (scores[:, 0] <= high)
        count(metric, scores[rows], Y[rows])
    assert float(metric.compute()) == pytest.approx(average_precision_score(Y, scores, average="macro"), abs=1e-6)
    assert "on_train" not in metrics(4, True)


def test_classes_without_an_example_do_not_count():
    y = Y[:12].clone()
    y[:, [0, 2]] = False
    scores = torch.randn(12, 4, generator=torch.Generator().manual_seed(2))
    metric = metrics(4, True)["on_test"]
    count(metric, scores, y)
    wanted = np.mean([average_precision_score(y[:, k], scores[:, k]) for k in (1, 3)])
    assert float(metric.compute()) == pytest.approx(wanted, abs=1e-6)
    metric.reset()
    count(metric, scores, y[:, [0, 1, 0, 0]])
    assert float(metric.compute()) == pytest.approx(average_precision_score(y[:, 1], scores[:, 1]), abs=1e-6)
    metric.reset()
    count(metric, scores, torch.zeros_like(y))
    assert torch.isnan(metric.compute())


@pytest.mark.parametrize("spec", ["nes", pytest.param("folded", marks=pytest.mark.slow)])
def test_a_training_logs_it_and_keeps_the_best(trainer, tmp_path, spec):
    best = BestCheckpoint()
    runner = trainer(
        max_epochs=2, limit_train_batches=4, limit_val_batches=3, enable_checkpointing=True, callbacks=[best]
    )
    model, data = made(spec=spec), Several()
    runner.fit(model, datamodule=data)
    assert best.monitor == "val/map"
    assert {"val/map", "val/loss", "train/loss"} <= runner.callback_metrics.keys()
    assert "train/acc" not in runner.callback_metrics
    saved = torch.load(best.best_model_path, weights_only=True)["autosample"]["facts"]
    assert saved["multilabel"] is True
    assert list(saved["metrics"]) == ["validation mean average precision"]
    (result,) = runner.test(model, datamodule=data, verbose=False)
    with torch.no_grad():
        scores = model.eval()(X[30:])
    assert result["test/map"] == pytest.approx(average_precision_score(Y[30:], scores, average="macro"), abs=1e-6)
    assert result["test/loss"] == pytest.approx(
        float(F.binary_cross_entropy_with_logits(scores, Y[30:].float())), abs=1e-6
    )
    predicted = torch.cat(runner.predict(model, datamodule=data))
    torch.testing.assert_close(predicted, scores.sigmoid())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"multilabel": False}, "got model.multilabel=False and True in Several: set model.multilabel=True"),
        ({"num_classes": 5}, "got model.num_classes=5 and 4 classes in Several"),
        ({"distill": 0.5, "teacher": "timm:resnet18"}, "distill needs examples of one class each, got multilabel"),
    ],
)
def test_what_does_not_fit_is_said(trainer, options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        trainer(max_epochs=1).fit(made(**options), datamodule=Several())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_net_for_images_refuses_waves(trainer):
    class Waves(Several):
        multilabel, input_shape = False, (1, 8000)

    with pytest.raises(ConfigError, match=r"test_resnet takes images, got sounds of shape \(1, 8000\) in Waves: set"):
        trainer(max_epochs=1).fit(made(model="test_resnet", in_chans=1, multilabel=False), datamodule=Waves())
    with pytest.raises(ConfigError, match=r"got model\.multilabel=True and False in Waves: set model.multilabel=False"):
        trainer(max_epochs=1).fit(made(), datamodule=Waves())
