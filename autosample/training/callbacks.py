"""Callbacks: checkpoints, the size report, a log of moved offsets, predictions."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from autosample.errors import ConfigError
from autosample.model.report import save_report
from autosample.nn import compressed_layers
from autosample.sampling import LearnedOffsets
from autosample.training.freezing import progress, val_accuracy
from autosample.training.groups import FAST


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best validation accuracy (or `val/map`), if there is a validation set."""

    def __init__(self) -> None:
        super().__init__(monitor="val/acc", mode="max")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and (data is None or not trainer.limit_val_batches or not data.sizes["val"]):
            self.monitor, self.save_top_k = None, 0
        elif self.monitor:
            self.monitor = f"val/{getattr(pl_module, 'score', 'acc')}"
        super().setup(trainer, pl_module, stage)


def last_checkpoint() -> ModelCheckpoint:
    """A callback that writes `last.ckpt` after each epoch.

    Lightning's own `save_last` writes that file only together with the best one.
    """
    return ModelCheckpoint(filename="last", enable_version_counter=False)


class SizeReport(pl.Callback):
    """Writes `report.json`, `report.csv` and `report.md` beside the log when training starts, and logs the totals."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.done = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.done or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        self.done = True
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        result = pl_module.size_report()  # pyright: ignore[reportCallIssue]
        save_report(result, folder)
        totals = {"size/stored_bytes": result.stored_bytes, "size/ratio": result.ratio, "size/macs": result.macs or 0}
        for logger in trainer.loggers:
            logger.log_metrics({key: float(value) for key, value in totals.items()}, step=trainer.global_step)
            if isinstance(logger, WandbLogger):
                rows = result.to_dict()["rows"]
                logger.log_table("size/layers", columns=list(rows[0]), data=[list(map(str, r.values())) for r in rows])


class RateLog(LearningRateMonitor):
    """Logs the learning rates once per epoch, if there is a logger."""

    def __init__(self) -> None:
        super().__init__("epoch")

    def on_train_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_epoch_start(trainer, *args, **kwargs)


class WaitLog(pl.Callback):
    """Logs the share of each epoch of training that waits for data, as `train/data_wait`. Validation does not count.

    Waiting is from the end of a batch to the start of the next one. On an accelerator steps end before their work does,
    so this is an upper bound there.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._waited, self._worked = 0.0, 0.0
        self._mark = time.perf_counter()

    # a training that goes on within an epoch does not start this epoch
    on_train_epoch_start = on_train_start

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self._waited += now - self._mark
        self._mark = now

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self._worked += now - self._mark
        self._mark = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._worked:
            pl_module.log("train/data_wait", self._waited / (self._waited + self._worked), sync_dist=True)


class OffsetLog(pl.Callback):
    """Logs how learned offsets move [rows]: `offsets.csv`, and histograms to wandb.

    `offsets.csv` has their distance from the start, and their speed: the mean path of an offset per optimizer step
    since the entry before. Loggers get the accuracy on the validation data before offsets freeze, and 20 batches later
    or at the epoch's end, as `val/acc_before_freeze` and `val/acc_after_freeze`.

    Args:
        every: Epochs between two entries.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.start: dict[str, Tensor] = {}
        self._since: int | None = None  # batches since a freeze whose effect is not logged yet
        self._forget(0)

    def _forget(self, step: int) -> None:
        """Begin an entry."""
        self._paths: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._first = step

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "since": self._since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start, self._since = state_dict["start"], state_dict.get("since")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.start:
            self.start = learned_offsets(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._forget(trainer.global_step)
        self._follow(pl_module)

    def _follow(self, module: nn.Module) -> None:
        """Add the last step to the path of each layer's offsets."""
        for name, now in soft_offsets(module).items():
            if name in self._last:
                self._paths[name] = self._paths.get(name, 0) + (now - self._last[name]).abs().mean()
            self._last[name] = now

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not self.start:
            return
        self._follow(pl_module)
        if self._since is not None:
            self._since += 1
            if self._since == _SETTLED:
                self._log_after(trainer, pl_module)
        if any(not rule.is_frozen and progress(trainer) >= until for rule, until in _ends(pl_module)):
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
        steps = max(trainer.global_step - self._first, 1)
        speeds = {name: float(path) / steps for name, path in self._paths.items()}
        self._forget(trainer.global_step)
        self._follow(pl_module)
        fastest = max(speeds, key=speeds.__getitem__, default="")
        if speeds and speeds[fastest] > FAST:
            rank_zero_warn(
                f"learned offsets diverge in epoch {trainer.current_epoch}: they move by {speeds[fastest]:.3g} rows a "
                f'step in "{fastest}", and above a row nets do worse than with fixed ones: lower the option rate'
            )
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        rows, moved = [], {}
        for name, found in distances(trainer, pl_module, self.start).items():
            rows.append([trainer.current_epoch, name, *found.values(), speeds.get(name, 0.0)])
            moved[name] = (learned_offsets(pl_module)[name] - self.start[name]).abs().float().flatten().numpy()
        _append(folder / "offsets.csv", _HEADER, rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb  # Lightning's logger has imported it

                logger.experiment.log({f"moved/{name}": wandb.Histogram(value) for name, value in moved.items()})


_HEADER = ["epoch", "layer", "share_moved", "mean", "p10", "p50", "p90", "frozen", "speed"]
# Batches after which batch norms' statistics are those of the frozen net.
_SETTLED = 20


def _log(trainer: pl.Trainer, name: str, value: float | None) -> None:
    if value is not None:
        for logger in trainer.loggers:
            logger.log_metrics({name: value}, step=trainer.global_step)


def _ends(module: nn.Module) -> list[tuple[LearnedOffsets, float]]:
    """Learned offsets, each with the share of the training after which they freeze."""
    layers = compressed_layers(module).values()
    return [(rule, layer.learns_until) for layer in layers if isinstance(rule := _rule(layer), LearnedOffsets)]


def _rule(layer: nn.Module) -> Any:
    return getattr(layer, "offsets", None)


def soft_offsets(module: nn.Module) -> dict[str, Tensor]:
    """The real-valued offsets `(N, G)` [rows] of each layer that learns them now, by name."""
    rules = {name: _rule(layer) for name, layer in compressed_layers(module).items()}
    with torch.no_grad():
        return {
            name: rule.soft_offsets().clone()
            for name, rule in rules.items()
            if isinstance(rule, LearnedOffsets) and not rule.is_frozen
        }


def learned_offsets(module: nn.Module) -> dict[str, Tensor]:
    """Integer offsets `(N, G)` of each layer that learns or has learned them, by name, on the CPU."""
    found = {name: layer.learned_offsets() for name, layer in compressed_layers(module).items()}
    return {name: offsets.cpu() for name, offsets in found.items() if offsets is not None}


def distances(
    trainer: pl.Trainer, module: nn.Module, start: Mapping[str, Tensor]
) -> dict[str, dict[str, float | bool]]:
    """Distance of learned offsets from `start`, by layer: share moved, mean and quantiles [rows], whether frozen."""
    last, layers = progress(trainer, trainer.global_step - 1), compressed_layers(module)
    found = {}
    for name, offsets in learned_offsets(module).items():
        distance = (offsets - start[name]).abs().float()
        low, middle, high = torch.quantile(distance.flatten(), torch.tensor([0.1, 0.5, 0.9])).tolist()
        found[name] = {
            "share_moved": float((distance > 0).float().mean()),
            "mean": float(distance.mean()),
            "p10": low,
            "p50": middle,
            "p90": high,
            "frozen": last >= layers[name].learns_until,  # as of the last step's start
        }
    return found


def _append(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(([header] if fresh else []) + rows)


class PredictionFile(BasePredictionWriter):
    """Writes `predictions.csv`: one line per example with its index, its likeliest class and that class's probability.

    With several processes, the first one writes the predictions of all.

    Raises:
        ConfigError: The data loader does not tell which examples a process has predicted.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        path = run_folder(trainer) / "predictions.csv"
        probability, chosen = torch.cat(list(predictions)).float().max(1)
        indices = _indices(trainer, batch_indices, len(chosen))
        mine = list(zip(indices, chosen.tolist(), probability.tolist(), strict=True))
        # an example that two processes predicted, to have equally many batches, comes once
        found = {index: rest for part in _of_all(trainer, mine) for index, *rest in part}
        if not trainer.is_global_zero:
            return
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        path.unlink(missing_ok=True)
        rows = [[i, names[c] if names else c, f"{p:.4f}"] for i, (c, p) in sorted(found.items())]
        _append(path, ["index", "class", "probability"], rows)
        print(f"predictions: {path}")


def _indices(trainer: pl.Trainer, batch_indices: Any, count: int) -> list[int]:
    """The indices in the data set of the `count` examples that this process has predicted, in their order."""
    plan = getattr(trainer.predict_dataloaders, "plan", None)
    if plan is not None:
        return plan.order(0)[:count].tolist()
    given = [index for loader in batch_indices or () for batch in loader for index in batch]
    if len(given) == count:
        return given
    if trainer.world_size > 1:
        raise ConfigError(
            "several processes can predict only with a map-style data set, got another data loader: "
            "use --trainer.devices 1"
        )
    return list(range(count))


def _of_all(trainer: pl.Trainer, mine: list) -> list[list]:
    """`mine` of every process."""
    if trainer.world_size == 1:
        return [mine]
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, mine)
    return parts


def run_folder(trainer: pl.Trainer) -> Path:
    """The folder of this run's log, created if needed. Every process must call it: the first sends its name to all."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
