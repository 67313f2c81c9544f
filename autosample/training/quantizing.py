"""Fake quantisation in training: summaries are used at the levels that they will be stored with."""

from typing import Any

import pytorch_lightning as pl

from autosample.errors import ConfigError
from autosample.model.quantize import Method, attach_quantizers, check_quantization, fix_quantizers_
from autosample.nn import compressed_layers
from autosample.training.callbacks import progress


class FakeQuantize(pl.Callback):
    """Trains with quantised summaries after a share of the training; at its end the model is quantised.

    `linear` levels follow the least and largest value at each step, with gradients straight through (FSNet-WQ of Yang
    et al. 2020 trains so after quantising); `codebook` learns its levels by DKM's differentiable k-means (Cho et al.
    2022). A layer begins after its offsets have become integers. What validation shows is what is stored in the end.
    Testing and predicting fix the levels, as `HardenSchedule` does with offsets.

    Args:
        bits: Of a stored number, 2 to 8.
        method: `linear` or `codebook`.
        start: Share of the training after which layers begin; those whose offsets are learned for longer, later.
        temperature: DKM's `τ`, as a share of the mean distance between levels.

    Raises:
        QuantizationError: An argument is unusable.
        ConfigError: The model has no compressed layer, or `start` or `temperature` is out of range.
    """

    def __init__(
        self,
        bits: int = 8,
        method: Method = "linear",
        start: float = 0.7,
        temperature: float = 0.1,
    ) -> None:
        check_quantization(bits, method, "sampled", None)
        if not 0 <= start <= 1 or not temperature > 0:
            raise ConfigError(
                f"start must be between 0 and 1 and temperature above 0, got {start} and {temperature}: leave them out"
            )
        self.bits, self.start = bits, start
        self.method: Method = method
        self.temperature = temperature

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give each layer its quantizers before a checkpoint is read, which holds their levels."""
        layers = compressed_layers(pl_module)
        if not layers:
            raise ConfigError("FakeQuantize needs a converted model, got a dense one: remove the callback")
        if all(layer.quantizers is None for layer in layers.values()):
            attach_quantizers(pl_module, self.bits, self.method, temperature=self.temperature)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for layer in compressed_layers(pl_module).values():
            if progress(trainer) >= max(self.start, layer.learns_until):
                layer.freeze_()  # whichever of the callbacks comes first
                for name in layer.quantizers or ():
                    layer.start_levels(name)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fix_quantizers_(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fix_quantizers_(pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fix_quantizers_(pl_module)
