"""The three phases of sum-product layers in a training (Tschannen et al. 2018)."""

import pytorch_lightning as pl
import torch

from autosample.nn import compressed_layers
from autosample.nn.sum_product import FROZEN, FULL, TERNARY
from autosample.training import Classifier


class Watch(pl.Callback):
    """The phase and the matrix that each step uses, and what the layer learns."""

    def __init__(self):
        self.phases, self.matrices, self.scales, self.stats = [], [], [], []

    def on_after_backward(self, trainer, module):
        layer = module.net.stages[1].conv
        self.phases.append(layer.phase)
        self.matrices.append(layer.matrix("gather").detach().clone())
        self.scales.append(layer.scale.detach().clone())
        self.stats.append(layer.norm.running_mean.clone())


def test_full_precision_then_ternary_then_frozen(classifier, digits, trainer):
    options = {"products": 0.75, "ternary_at": 0.25, "freeze_at": 0.6}
    model, watch = classifier(spec="strassen", ratio=None, spec_args={"options": options}, weight_decay=0.1), Watch()
    trainer(max_epochs=1, limit_train_batches=8, limit_val_batches=0, callbacks=[watch]).fit(model, digits())
    # shares of the training that are done before each of eight steps: 0, 1/8, …, 7/8
    assert watch.phases == [FULL, FULL, TERNARY, TERNARY, TERNARY, FROZEN, FROZEN, FROZEN]
    levels = [len(matrix.unique()) for matrix in watch.matrices]
    assert levels[0] > 1000
    assert levels[2:] == [3] * 6
    assert {*watch.matrices[5].unique().tolist()} == {-1.0, 0.0, 1.0}
    assert not torch.equal(watch.matrices[3], watch.matrices[4])
    assert torch.equal(watch.matrices[5], watch.matrices[7])
    assert not torch.equal(watch.scales[6], watch.scales[7])
    assert not torch.equal(watch.stats[6], watch.stats[7])
    layers = compressed_layers(model.net)
    assert [layer.phase for layer in layers.values()] == [FROZEN] * 4


def test_norms_begin_anew_with_each_phase(classifier, digits, trainer):
    """After the first step of a phase, a norm's statistics are those of that step's batch alone."""
    options = {"products": 1, "ternary_at": 0.25, "freeze_at": 0.5}
    model, seen = classifier(spec="strassen", ratio=None, spec_args={"options": options}), []

    class Keep(pl.Callback):
        def on_train_start(self, trainer, module):
            self.norm = module.net.stages[1].conv.norm
            self.norm.register_forward_hook(lambda norm, args, out: seen.append([args[0].detach(), None]))

        def on_train_batch_end(self, *_):
            seen[-1][1] = self.norm.running_mean.clone()

    trainer(max_epochs=1, limit_train_batches=8, limit_val_batches=0, callbacks=[Keep()]).fit(model, digits())
    alone = [torch.allclose(x.mean((0, 2, 3)), kept, rtol=1e-4, atol=1e-5) for x, kept in seen]
    assert alone == [False, False, True, False, True, False, False, False]


def test_a_checkpoint_is_read_without_the_training(classifier, digits, trainer, tmp_path):
    from autosample.artifact import load_any

    options = {"products": 1, "ternary_at": 0.2, "freeze_at": 0.9}
    model = classifier(spec="strassen", ratio=None, spec_args={"options": options})
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="last")
    steps = {"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 0}
    trainer(**steps, enable_checkpointing=True, callbacks=[keep]).fit(model, digits())
    x = torch.randn(2, 1, 16, 16)
    net, _ = load_any(tmp_path / "last.ckpt")
    again = Classifier.load_from_checkpoint(tmp_path / "last.ckpt")
    for layer in compressed_layers(again.net).values():
        assert layer.phase >= TERNARY
        layer.freeze_()
    torch.testing.assert_close(net(x), again.eval()(x), rtol=1e-4, atol=1e-5)
