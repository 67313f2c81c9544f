"""Fake quantisation in training: layers compute with the levels that will be stored."""

from typing import Any

import pytorch_lightning as pl

from autosample.errors import ConfigError
from autosample.model.quantize import Method, attach_quantizers, check_quantization, fix_quantizers_
from autosample.nn import compressed_layers
from autosample.training.freezing import progress


class FakeQuantize(pl.Callback):
    """Trains with quantised summaries from a share of the training on. At the end the model is quantised.

    `linear` levels follow the minimum and maximum at each step, with straight-through gradients, as FSNet-WQ does
    after quantising (Yang et al. 2020). `codebook` learns its levels by DKM's differentiable k-means (Cho et al. 2022).
    A layer starts to use its levels once its offsets are integers. Validation then measures what will be stored.
    Testing and predicting fix the levels, as `HardenSchedule` fixes offsets.

    Args:
        bits: Bits per stored number, 2 to 8.
        method: `linear`, `codebook`, `per-filter` or `ternary`, as for `quantize_`.
        start: Share of the training after which layers use their levels; never before their offsets are frozen.
        temperature: DKM's `τ`, as a share of the mean distance between levels.
        vector: How many consecutive numbers share a code, as for `quantize_`.

    Raises:
        QuantizationError: `bits` or `method` is not usable.
        ConfigError: The model has no compressed layer, or `start` or `temperature` is out of range.
    """

    def __init__(
        self,
        bits: int = 8,
        method: Method = "linear",
        start: float = 0.7,
        temperature: float = 0.1,
        vector: int = 1,
    ) -> None:
        check_quantization(bits, method, "sampled", None, vector)
        if not 0 <= start <= 1 or not temperature > 0:
            raise ConfigError(
                f"start must be between 0 and 1 and temperature above 0, got {start} and {temperature}: leave them out"
            )
        self.bits, self.start = bits, start
        self.method: Method = method
        self.temperature, self.vector = temperature, vector

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach quantizers to each layer. This comes before a checkpoint is read, which may hold their levels."""
        self.attach(pl_module)

    def attach(self, pl_module: pl.LightningModule) -> None:
        """Attach quantizers to each layer that has none.

        Raises:
            ConfigError: The model has no compressed layer.
        """
        layers = compressed_layers(pl_module)
        if not layers:
            raise ConfigError("FakeQuantize needs a converted model, got a dense one: remove the callback")
        if all(layer.quantizers is None for layer in layers.values()):
            kept = {"temperature": self.temperature, "vector": self.vector}
            attach_quantizers(pl_module, self.bits, self.method, **kept)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for layer in compressed_layers(pl_module).values():
            if progress(trainer) >= max(self.start, layer.learns_until):
                layer.freeze_()  # in case `HardenSchedule` runs after this callback
                for name in layer.quantizers or ():
                    layer.start_levels(name)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fix_quantizers_(pl_module)  # after callbacks that end the training with an average

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fix_quantizers_(pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fix_quantizers_(pl_module)


def attach_levels(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Attach the quantizers of a trainer's `FakeQuantize`, if it has one.

    Raises:
        ConfigError: Several of them differ, or the model has no compressed layer.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    found = [callback for callback in callbacks if isinstance(callback, FakeQuantize)]
    for callback in found:
        if vars(callback) != vars(found[0]):
            told = " and ".join(f"{one.bits} bits {one.method}" for one in found)
            raise ConfigError(f"a net has levels of one kind, got FakeQuantize with {told}: give one of them")
        callback.attach(pl_module)
