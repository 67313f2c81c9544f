"""The log of what rules learn: how far and how fast offsets and selections move, and what freezing them costs."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor, nn

from autosample.nn import compressed_layers
from autosample.sampling import Offsets
from autosample.training.callbacks import append_rows, run_folder
from autosample.training.freezing import progress, val_accuracy
from autosample.training.paths import Paths, moved, positions, rules, told

_HEADER = ["epoch", "layer", "share_moved", "mean", "p10", "p50", "p90", "frozen", "speed", "unit"]
# Batches after which batch norms' statistics are those of the frozen net.
_SETTLED = 20


class OffsetLog(pl.Callback):
    """Logs how learned offsets and selections move: `offsets.csv`, and histograms to wandb.

    `offsets.csv` has their distance from the start, and their speed: the mean path per optimizer step since the entry
    before. Both are in `unit`: `rows` for offsets; `changes` for blocks and signs, of which a share changes; `shares`
    of second folds; or `numbers` of the learner of `conditioned`.

    Loggers get the accuracy on the validation data before something freezes, and 20 batches later or at the epoch's
    end, as `val/acc_before_freeze` and `val/acc_after_freeze`. Offsets that move by more than a row a step are told
    once.

    Args:
        every: Epochs between two entries.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.start: dict[str, Tensor] = {}
        self._since: int | None = None  # batches since a freeze whose effect is not logged yet
        self._paths = Paths()

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "since": self._since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start, self._since = state_dict["start"], state_dict.get("since")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.start:
            self.start = positions(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paths.begin(pl_module, trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not self.start:
            return
        self._paths.follow(pl_module)
        if self._since is not None:
            self._since += 1
            if self._since == _SETTLED:
                self._log_after(trainer, pl_module)
        if any(progress(trainer) >= until for until in _ends(pl_module)):
            self._since = 0  # before the next step they freeze
            _log(trainer, "val/acc_before_freeze", val_accuracy(trainer, pl_module))

    def _log_after(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since = None
        _log(trainer, "val/acc_after_freeze", val_accuracy(trainer, module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._since:
            self._log_after(trainer, pl_module)
        if not self.start or trainer.current_epoch % self.every or trainer.fast_dev_run:  # pyright: ignore
            return
        speeds, known = self._paths.speeds(trainer, pl_module), rules(pl_module)
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        rows, distances = [], {}
        for name, now in positions(pl_module).items():
            if name not in self.start:
                continue  # a checkpoint of an earlier version did not follow it
            distance = moved(known[name], now, self.start[name])
            found = told(trainer, pl_module, name, distance)
            rows.append([trainer.current_epoch, name, *found.values(), speeds.get(name, 0.0), known[name].unit])
            distances[name] = distance.flatten().numpy()
        append_rows(folder / "offsets.csv", _HEADER, rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb  # Lightning's logger has imported it

                logger.experiment.log({f"moved/{name}": wandb.Histogram(value) for name, value in distances.items()})


def _log(trainer: pl.Trainer, name: str, value: float | None) -> None:
    if value is not None:
        for logger in trainer.loggers:
            logger.log_metrics({name: value}, step=trainer.global_step)


def _ends(module: nn.Module) -> list[float]:
    """The shares of the training after which what learns now freezes."""
    layers = [(layer, getattr(layer, "offsets", None)) for layer in compressed_layers(module).values()]
    learning = [(layer, rule) for layer, rule in layers if isinstance(rule, Offsets) and rule.learned]
    return [layer.learns_until for layer, rule in learning if rule.trace() is not None]
