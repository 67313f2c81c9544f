"""Learned blocks in whole trainings."""

import torch

import autosample
from autosample.nn import compressed_layers

LEARNED = {"assignment": "learned", "every": 3, "moves": 0.5, "freeze_at": 0.7}


def test_a_classifier_moves_filters_until_they_are_frozen(classifier, digits, trainer, tmp_path):
    """And the saved net computes what the trained one does."""
    torch.manual_seed(0)
    model, data = classifier(spec="folded", spec_args={"options": LEARNED}), digits()
    trainer(max_epochs=2, limit_train_batches=6).fit(model, datamodule=data)
    layers = compressed_layers(model).values()
    assert all(layer.offsets.is_frozen for layer in layers)
    chosen = [layer.offsets.followed()[:, 0] for layer in layers]
    usual = [layer.folds.block() for layer in layers]
    assert any(not torch.equal(mine, block) for mine, block in zip(chosen, usual, strict=True))
    assert all(torch.equal(mine.bincount(), block.bincount()) for mine, block in zip(chosen, usual, strict=True))
    x = torch.randn(3, *data.input_shape)
    expected = model.eval()(x)
    autosample.save(model.net, tmp_path / "saved")
    loaded = autosample.load(tmp_path / "saved")
    assert torch.equal(loaded(x), expected)
    assert autosample.report(loaded).total().position_bits == sum(layer.offsets.stored_bits() for layer in layers) > 0
