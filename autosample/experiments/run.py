"""One training run, and the record that is kept of it."""

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from autosample.errors import ConfigError, one_line
from autosample.training import Classifier


@dataclass(frozen=True)
class Record:
    """What came out of a run, and everything that decided it.

    Attributes:
        settings: The configuration, as given.
        accuracy: Test accuracy of the hardened model [0 … 1].
        stored_bytes, dense_bytes: Size as saved, and of the dense model [bytes].
        macs: Multiply-adds for one example.
        seconds: Wall time of the training.
        torch: Version.
    """

    settings: dict[str, Any]
    accuracy: float
    stored_bytes: int
    dense_bytes: int
    macs: int
    seconds: float
    torch: str

    @property
    def ratio(self) -> float:
        """Bytes of the dense model divided by the stored ones."""
        return self.dense_bytes / self.stored_bytes


class _Tick(pl.Callback):
    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.tick()


def train(
    data: pl.LightningDataModule,
    settings: Mapping[str, Any],
    *,
    epochs: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Classifier, Record]:
    """Train a `Classifier` with `settings` for some epochs, without files, and test it at the end.

    Args:
        data: The data module.
        settings: Arguments of `Classifier`.
        epochs: Epochs.
        tick: Called after each epoch.
    """
    pl.seed_everything(settings.get("seed", 0), verbose=False)
    model = Classifier(**settings)
    with quiet():
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            callbacks=[_Tick(tick)],
        )
        start = time.perf_counter()
        trainer.fit(model, datamodule=data)
        seconds = time.perf_counter() - start
        accuracy = trainer.test(model, datamodule=data, verbose=False)[0]["test/acc"]
        size = model.size_report()
    model.eval()
    described = {**settings, "epochs": epochs, "data": type(data).__name__}
    sizes = (size.stored_bytes, size.dense_bytes, size.macs or 0)
    return model, Record(described, accuracy, *sizes, round(seconds, 2), torch.__version__)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Lightning's notices, which speak to people who write their own loops."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_LOUD = ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda")


def write_json(path: Path, data: Any) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(data, indent=1))
    partial.replace(path)


def write_record(path: Path, record: Record) -> None:
    """Keep a record as JSON."""
    write_json(path, asdict(record))


def read_record(path: Path) -> Record | None:
    """A kept record, or `None` if there is none.

    Raises:
        ConfigError: The file is not a record.
    """
    if not path.exists():
        return None
    try:
        record = Record(**json.loads(path.read_text()))
        if not isinstance(record.settings, dict) or not record.stored_bytes > 0:
            raise ValueError("settings or sizes are missing")
        return record
    except (ValueError, TypeError) as error:
        raise ConfigError(f"a record must be what a run wrote, got {path}: {one_line(error)}: delete it") from error
