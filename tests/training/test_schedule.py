"""When offsets are frozen, and what testing sees."""

import pytest
import pytorch_lightning as pl
import torch

from autosample.nn import compressed_layers
from autosample.sampling.rules.categorical import CategoricalOffsets


class Watch(pl.Callback):
    """Offsets and frozen states of every layer before each batch."""

    def __init__(self):
        self.offsets, self.frozen, self.soft, self.temperature = [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        layers = compressed_layers(pl_module).values()
        self.offsets.append([layer.offsets().clone() for layer in layers])
        self.frozen.append([getattr(layer.offsets, "is_frozen", True) for layer in layers])
        self.soft.append([layer.offsets.placement().weights is not None for layer in layers])
        rules = [m for layer in layers for m in layer.modules() if isinstance(m, CategoricalOffsets)]
        self.temperature.append([float(rule.temperature) for rule in rules])


@pytest.mark.parametrize("preset", ["autosample", "nes", "dfsnet", "categorical"])
def test_offsets_freeze_at_their_time_and_stay(classifier, digits, trainer, preset):
    watch = Watch()
    model = classifier(spec=preset, spec_args={"options": {"freeze_at": 0.5}})
    trainer(max_epochs=2, limit_train_batches=4, callbacks=[watch]).fit(model, datamodule=digits())
    learning = [i for i, layer in enumerate(compressed_layers(model).values()) if layer.offsets.learned]
    assert learning
    for step in range(8):
        assert all(watch.frozen[step][i] == (step >= 4) for i in learning), step
    for i in learning:
        assert not any(watch.soft[step][i] for step in range(4, 8))
        assert all(torch.equal(watch.offsets[step][i], watch.offsets[7][i]) for step in range(4, 8))
    final = [layer.offsets() for layer in compressed_layers(model).values()]
    assert all(torch.equal(a, b) for a, b in zip(final, watch.offsets[-1], strict=True))


def test_offsets_move_before_they_freeze_and_summaries_after(classifier, digits, trainer):
    model = classifier(spec_args={"options": {"freeze_at": 0.5, "rate": 0.6}})
    layer = next(iter(compressed_layers(model).values()))
    seen = []

    class Copy(pl.Callback):
        def on_train_batch_end(self, *args):
            seen.append((layer.offsets.position.detach().clone(), layer.summary.detach().clone()))

    start = layer.offsets.position.detach().clone()
    trainer(max_epochs=2, limit_train_batches=4, callbacks=[Copy()]).fit(model, datamodule=digits())
    # a step of Adam moves a position by its rate, 0.6 rows at the peak
    assert (seen[3][0] - start).abs().mean() > 0.5
    assert torch.equal(layer.offsets(), layer.offsets.table)
    assert not torch.equal(seen[6][1], seen[7][1])


def test_choices_are_annealed(classifier, digits, trainer):
    watch = Watch()
    model = classifier(spec="categorical", spec_args={"options": {"freeze_at": 1.0}})
    trainer(max_epochs=2, limit_train_batches=4, callbacks=[watch]).fit(model, datamodule=digits())
    for step, values in enumerate(watch.temperature):
        assert values
        assert values == pytest.approx([10 ** -(step / 8)] * len(values))
    assert all(layer.offsets.is_frozen for layer in compressed_layers(model).values())


def test_testing_runs_on_integers_whatever_the_checkpoint_holds(classifier, digits, trainer, tmp_path):
    whole = {"spec_args": {"options": {"freeze_at": 1.0}}, "model_args": {"norm": False}}  # norms change at the freeze
    model = classifier(**whole)
    soft = []

    class Save(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            soft.append(not any(layer.offsets.is_frozen for layer in compressed_layers(pl_module).values()))
            trainer.save_checkpoint(tmp_path / "soft.ckpt")

    runner = trainer(max_epochs=1, callbacks=[Save()], limit_test_batches=2)
    runner.fit(model, datamodule=digits())
    assert soft == [True]
    expected = runner.test(model, datamodule=digits(), verbose=False)
    again = classifier(**whole)
    tested = trainer(limit_test_batches=2).test(again, digits(), ckpt_path=tmp_path / "soft.ckpt", verbose=False)
    assert tested == expected
    assert all(layer.offsets.is_frozen for layer in compressed_layers(again).values())


@pytest.mark.parametrize("freeze_at", [0.0, 1.0])
def test_the_ends_of_the_schedule(classifier, digits, trainer, freeze_at):
    watch = Watch()
    model = classifier(spec_args={"options": {"freeze_at": freeze_at}})
    trainer(max_epochs=1, callbacks=[watch]).fit(model, datamodule=digits())
    assert all(state == (freeze_at == 0) for step in watch.frozen for state in step)
    assert all(layer.offsets.is_frozen for layer in compressed_layers(model).values())
