"""Freezing of learned selections and of ternary entries: when, and what must follow it."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autosample.model.norms import averaging
from autosample.nn import compressed_layers
from autosample.sampling import LearnedOffsets

# Batches whose statistics make up a batch norm's, where no training follows.
_BATCHES = 20


class HardenSchedule(pl.Callback):
    """Anneals learned offsets, and freezes them at each layer's `freeze_at`.

    Sum-product layers go through their three phases: full precision, ternary entries from `ternary_at` on, and frozen
    ones from `freeze_at` on, while factors and norms still learn (Tschannen et al. 2018).

    Freezing rounds weights, so the statistics of batch norms, which are averages over the steps before, no longer fit:
    they begin anew with the batch that follows. If nothing was frozen until the end, they are averaged over 20 batches.

    Testing and predicting freeze offsets too, so a measured accuracy is that of the saved model. If training is
    resumed afterwards, it uses the frozen offsets. Frozen offsets are buffers of the model, so this callback has no
    state to save. In distributed training, the first rank's buffers are broadcast before each forward pass, like those
    of batch norm. So all ranks have the same offsets from the next forward pass on.
    """

    def __init__(self) -> None:
        self._learning = 0
        self._momenta: dict[_BatchNorm, float | None] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._learning = count_learning(pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for layer in compressed_layers(pl_module).values():
            layer.advance_(progress(trainer))
        if not self._learning:  # counting looks at every module, and most presets learn no selections
            return
        before, self._learning = self._learning, count_learning(pl_module)
        if self._learning < before:  # this callback has frozen some, or another one has
            self._momenta = {norm: norm.momentum for norm in batch_norms(pl_module)}
            for norm, momentum in self._momenta.items():
                if momentum is None:  # an average over all batches
                    norm.reset_running_stats()
                else:
                    norm.momentum = 1.0

    def on_train_batch_end(self, *_: Any) -> None:
        for norm, momentum in self._momenta.items():
            norm.momentum = momentum
        self._momenta = {}

    def on_exception(self, *_: Any) -> None:
        self.on_train_batch_end()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        learned = count_learning(pl_module) > 0
        self._freeze(pl_module)
        if learned:
            average_norms(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._freeze(pl_module)

    on_predict_start = on_test_start

    def _freeze(self, module: nn.Module) -> None:
        for layer in compressed_layers(module).values():
            layer.freeze_()


def progress(trainer: pl.Trainer, steps: int | None = None) -> float:
    """Share of the training that is done after `steps` steps, 0 … 1; by default after the steps made so far."""
    done = trainer.global_step if steps is None else steps
    return done / max(float(trainer.estimated_stepping_batches), 1.0)


def count_learning(module: nn.Module) -> int:
    """How many learned selections of a model are not frozen, and how many stages its layers have yet to go through."""
    stages = sum(layer.open_stages for layer in compressed_layers(module).values())
    return stages + sum(isinstance(m, LearnedOffsets) and not m.is_frozen for m in module.modules())


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a model that keep statistics and follow its training."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.running_mean is not None]


@torch.no_grad()
def average_norms(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Average the statistics of batch norms anew, over a few batches of the training data."""
    norms = batch_norms(module)
    batches = inputs(trainer, trainer.train_dataloader, min(_BATCHES, trainer.num_training_batches))
    first = next(batches, None) if norms else None
    if first is None:
        return
    with averaging(norms), trainer.precision_plugin.forward_context():
        for x, *_ in chain([first], batches):
            module(x)


@torch.no_grad()
def val_accuracy(trainer: pl.Trainer, module: pl.LightningModule) -> float | None:
    """Accuracy on the validation data in the middle of a training; `None` without such data, or with several labels."""
    if getattr(module, "score", "acc") != "acc":
        return None
    loader, limit = trainer.val_dataloaders, sum(trainer.num_val_batches)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    right = torch.zeros(2, device=module.device)
    with trainer.precision_plugin.forward_context():
        for x, y in inputs(trainer, loader, limit):
            right += torch.stack([(module(x).argmax(1) == y).sum(), torch.ones_like(y).sum()]).to(right)
    for part, mode in modes.items():
        part.training = mode
    right = trainer.strategy.reduce(right, reduce_op="sum")
    return float(right[0] / right[1]) if right[1] else None


def inputs(trainer: pl.Trainer, loader: Any, limit: float) -> Iterator[tuple[Tensor, ...]]:
    """The first batches `(x, …)` of a loader, as the trainer gives them to its module; none of another kind."""
    most = int(min(limit, 2**31))  # a loader without a length may have infinitely many
    for batch in islice(() if loader is None else loader, most):
        batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        if not isinstance(batch, list | tuple) or not isinstance(batch[0], Tensor):
            return
        yield tuple(batch)
