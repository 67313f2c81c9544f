"""Fake quantisation in training: what is shown in the end is what is stored."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from autosample.artifact import compact_state, load_any, save
from autosample.coding.quantizer import FIXED, LEARNING, WAITING
from autosample.errors import ConfigError, QuantizationError
from autosample.nn import compressed_layers
from autosample.training import Classifier, FakeQuantize


def loader() -> DataLoader:
    x = torch.randn(64, 1, 8, 8)
    return DataLoader(TensorDataset(x, (x.mean((1, 2, 3)) > 0).long()), batch_size=16)


def classifier(spec="autosample", **options) -> Classifier:
    learned = {"options": {"afford": 10}} if spec == "autosample" else None
    return Classifier("digitnet", num_classes=2, spec=spec, ratio=16, lr=1e-2, spec_args=learned, **options)


class Watch(pl.Callback):
    """Stages by step, and the outputs of the last validation."""

    def __init__(self) -> None:
        self.stages, self.shown = [], None
        self.x = torch.randn(8, 1, 8, 8)

    def on_train_batch_end(self, trainer, module, *args) -> None:
        self.stages.append({q.now for layer in compressed_layers(module).values() for q in layer.quantizers.values()})

    def on_validation_epoch_end(self, trainer, module) -> None:
        self.shown = module(self.x)


def train(module, callback, watch, tmp_path, epochs=4, **options):
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback, watch], accelerator="cpu", logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        **{"enable_checkpointing": False, **options},
    )  # fmt: skip
    trainer.fit(module, loader(), loader())
    return trainer


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*num_workers.*", "ignore:.*lr_scheduler.*")
@pytest.mark.parametrize("preset", ["autosample", "wsnet", "dfsnet"])
@pytest.mark.parametrize(
    ("method", "bits"), [pytest.param("linear", 8, marks=pytest.mark.slow), ("linear", 4), ("codebook", 3)]
)
def test_the_quantised_model_is_what_was_shown(tmp_path, preset, method, bits):
    module, watch = classifier(preset), Watch()
    before = {name: layer.summary.detach().clone() for name, layer in compressed_layers(module).items()}
    train(module, FakeQuantize(bits, method, start=0.5), watch, tmp_path)
    assert watch.stages[0] == {WAITING}
    # begins at half of the training, but not before offsets are integers
    began = watch.stages.index({LEARNING})
    assert began == (8 if preset == "wsnet" else 10)
    module.eval()
    for name, layer in compressed_layers(module).items():
        assert layer.quantizer("summary").now == FIXED
        assert len(layer.summary.unique()) <= 2**bits
        assert not torch.equal(layer.summary, before[name])
    assert torch.equal(module(watch.x), watch.shown)
    size = save(module.net, tmp_path / "saved").tensors.bytes
    loaded, _ = load_any(tmp_path / "saved")
    assert torch.equal(loaded(watch.x), watch.shown)
    assert size < sum(t.nbytes for t in module.net.state_dict().values())


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*num_workers.*", "ignore:.*lr_scheduler.*")
def test_a_checkpoint_holds_the_levels(tmp_path):
    module, watch = classifier(), Watch()
    trainer = train(module, FakeQuantize(4, "codebook", start=0.0), watch, tmp_path, enable_checkpointing=True)
    path = tmp_path / "mine.ckpt"
    trainer.save_checkpoint(path)
    loaded, config = load_any(path)
    assert config.source.name == "digitnet"
    assert torch.equal(loaded(watch.x), watch.shown)
    assert all(torch.equal(t, compact_state(loaded)[k]) for k, t in compact_state(module.net).items())
    # one in the middle of the training goes on
    module2 = classifier()
    again = pl.Trainer(
        max_epochs=6, callbacks=[FakeQuantize(4, "codebook", start=0.0)], accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    again.fit(module2, loader(), loader(), ckpt_path=path)
    assert all(len(layer.summary.unique()) <= 16 for layer in compressed_layers(module2).values())


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*num_workers.*", "ignore:.*lr_scheduler.*")
def test_a_dense_model_has_nothing_to_quantise(tmp_path):
    with pytest.raises(ConfigError, match="remove the callback"):
        train(classifier("dense"), FakeQuantize(), Watch(), tmp_path)


def test_arguments_out_of_range():
    with pytest.raises(QuantizationError, match="bits"):
        FakeQuantize(1)
    with pytest.raises(ConfigError, match="start"):
        FakeQuantize(start=2)
