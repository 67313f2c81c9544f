"""Callbacks: checkpoints, the size report, logs of rates and of waiting, predictions."""

import csv
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger

from autosample.errors import ConfigError
from autosample.model.report import save_report


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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best so far, also from the folder of an earlier run, where it stays.

        Lightning would forget its score there, and keep the next one as the best.
        """
        here = self.dirpath if Path(state_dict["best_model_path"]).is_file() else state_dict["dirpath"]
        if self.dirpath == here:
            super().load_state_dict({**state_dict, "dirpath": here})


class LastCheckpoint(ModelCheckpoint):
    """Writes `last.ckpt` after each epoch.

    Lightning's own `save_last` writes that file only together with the best one.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget that of an earlier run, which stays in its folder."""


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


def append_rows(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Add rows to a CSV file; a new file begins with the header."""
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
        append_rows(path, ["index", "class", "probability"], rows)
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
