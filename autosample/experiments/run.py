"""One training run: a cell of a grid becomes a record."""

import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from autosample.data import DATASETS, ClassificationData
from autosample.errors import ConfigError, hint
from autosample.experiments.grid import Cell
from autosample.experiments.identity import UNCOMPRESSED
from autosample.experiments.latency import measure_latency
from autosample.experiments.record import Record
from autosample.experiments.resolve import resolve
from autosample.experiments.teacher import arguments, dense_weights, keep
from autosample.experiments.trainer import NOISY, deterministic_on_cpu, trainer_for
from autosample.experiments.windows import window_maps
from autosample.model.norms import renew_norms_
from autosample.model.quantize import code_dense_, quantize_
from autosample.model.report import Report
from autosample.system.machine import hardware
from autosample.system.quiet import quiet
from autosample.system.warning import noticed
from autosample.training import Classifier, FakeQuantize
from autosample.training.paths import Paths, distances, learned_offsets, positions, rules


def make_data(name: str, args: Mapping[str, Any], *, seed: int, fold: int | None, holdout: float) -> ClassificationData:
    """The data module of a cell. Nothing is read yet.

    Raises:
        ConfigError: The class does not exist, or rejects an argument.
        DataError: An argument is out of range.
    """
    found = DATASETS.get(name) or _imported(name)
    if not (isinstance(found, type) and issubclass(found, ClassificationData)):
        raise ConfigError(f'data must name a class, got "{name}": {hint(name, DATASETS)}')
    folds = {} if fold is None else {"fold": fold}
    for key in (*args, *folds):
        options = {p for base in found.__mro__ for p in inspect.signature(base.__init__).parameters}
        options -= {"self", "args", "kwargs", "common"}
        if key not in options:
            raise ConfigError(f'{found.__name__} has no option "{key}": {hint(key, options)}')
    return found(**{**args, **folds}, seed=seed, val_fraction=holdout)


def _imported(path: str) -> Any:
    """The object with the full path `package.module.Class`, or `None`."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None) if module else None
    except ModuleNotFoundError:
        return None


def run_cell(cell: Cell, tick: Callable[[], None] = lambda: None, logger: Any = False) -> Record:
    """Train the net of a cell and measure it.

    Args:
        cell: Cell of a grid.
        tick: Called after each epoch.
        logger: Logger for Lightning.

    Raises:
        AutosampleError: The cell cannot be run, for example because its size is not possible.
    """
    data = make_data(cell.data, cell.data_args, seed=cell.seed, fold=cell.fold, holdout=cell.holdout)
    resolved = resolve(cell, data.input_shape)
    parts = {"validate": cell.holdout > 0, "test": cell.test, "quantize": resolved.quantize}
    parts |= {"quantize_from": _start(cell), "shrink_": resolved.shrink_}
    with dense_weights(cell, data) as given:
        settings, options = arguments(cell, replace(resolved.recipe, **given))
        model, record = train(data, settings, tick=tick, logger=logger, **options, **parts)
    if cell.preset == "dense" and not cell.quantize and not given:
        keep(cell, model)  # others may start from this very net
    latency = measure_latency(model.net, data.input_shape) if cell.latency else None
    described = {
        **record.settings,
        "data": cell.data,
        "data_args": cell.identity.get("data_args", {}),
        "fold": cell.fold,
    }
    if given:  # the file of the teacher's weights is deleted
        described |= {"model_args": resolved.recipe.model_args, "teacher_epochs": cell.train["teacher_epochs"]}
    sizes = {"dense_bytes": resolved.dense_bytes, "dense_params": resolved.dense_params}
    return replace(record, settings=described, cell=cell.identity, latency=latency, **sizes)


def _start(cell: Cell) -> float | None:
    """Share of the training after which layers use their levels; `None` if they are rounded after it."""
    sampled = cell.preset not in UNCOMPRESSED
    return cell.quantize.get("start", 0.7) if sampled or cell.quantize.get("train") else None


class _Watch(pl.Callback):
    """After each epoch, calls `tick` and notes how far and how fast what is learned besides numbers has moved."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick, self.paths = tick, Paths()
        self.start: dict[str, torch.Tensor] = {}
        self.moved: dict[str, list[list[float]]] = {}
        self.speeds: dict[str, dict[str, Any]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = learned_offsets(pl_module)
        self.speeds = {name: {"unit": rules(pl_module)[name].unit, "speed": []} for name in positions(pl_module)}
        self.paths.begin(pl_module, trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.speeds:
            self.paths.follow(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, values in distances(trainer, pl_module, self.start).items():
            found = [round(float(x), 4) for x in values.values()]
            self.moved.setdefault(name, []).append([trainer.current_epoch, *found])
        found = self.paths.speeds(trainer, pl_module)
        for name, told in self.speeds.items():
            told["speed"].append(float(f"{found.get(name, 0.0):.4g}"))
        self.tick()


def train(
    data: pl.LightningDataModule,
    settings: Mapping[str, Any],
    *,
    epochs: int,
    precision: Any = "32-true",
    validate: bool = False,
    test: bool = True,
    quantize: Mapping[str, Any] | None = None,
    quantize_from: float | None = 0.7,
    shrink_: Callable[[nn.Module], dict[str, Any]] | None = None,
    logger: Any = False,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Classifier, Record]:
    """Train a `Classifier` with `settings`, without writing files, and evaluate it once, at the end.

    Args:
        data: Data module.
        settings: Arguments of `Classifier`.
        epochs: Number of epochs.
        precision: Precision of Lightning's `Trainer`.
        validate: Evaluate on the validation part of the data too.
        test: Read the test set; otherwise the record's accuracy is that on the validation part.
        quantize: Arguments of `quantize_`. The quantised net is evaluated and measured.
        quantize_from: Share of the training after which layers use their levels; see `FakeQuantize`. `None`: they are
            rounded after training.
        shrink_: Changes the net before it trains, and returns settings for the record.
        logger: Logger for Lightning.
        tick: Called after each epoch.
    """
    pl.seed_everything(settings.get("seed", 0), verbose=False)
    with noticed() as notices:
        model, watch = Classifier(**settings), _Watch(tick)
    shrunk = shrink_(model.net) if shrink_ else {}
    callbacks = [watch, *_levels(model, quantize, quantize_from)]
    with quiet(*NOISY), noticed() as later, deterministic_on_cpu():
        trainer = trainer_for(epochs, precision=precision, logger=logger, validate=validate, callbacks=callbacks)
        start = time.perf_counter()
        trainer.fit(model, datamodule=data)
        if epochs == 0:  # what a net starts from has other weights, and its statistics
            renew_norms_(model.net, data.train_dataloader())
        seconds = time.perf_counter() - start
        if quantize:
            quantize_(model.net, **quantize)
        val = trainer.validate(model, datamodule=data, verbose=False)[0]["val/acc"] if validate else None
        tested = trainer.test(model, datamodule=data, verbose=False)[0]["test/acc"] if test else None
        size = model.size_report()
    model.eval()
    accuracy, scored_on = (tested, "test") if tested is not None else (val, "val")
    assert accuracy is not None
    given = {name: value for name, value in settings.items() if value is not None}
    given |= {"epochs": epochs, "data": type(data).__name__, **({"quantize": dict(quantize)} if quantize else {})}
    given |= shrunk
    machine = _machine(trainer.strategy.root_device)
    found = {"accuracy": accuracy, "scored_on": scored_on, "val_accuracy": val, "seconds": round(seconds, 2)}
    maps = {"moved": watch.moved, "speeds": watch.speeds, "windows": window_maps(model.net), "notices": notices + later}
    return model, Record(settings=given, torch=torch.__version__, machine=machine, **found, **maps, **_sizes(size))


def _sizes(size: Report) -> dict[str, Any]:
    """The fields of a record that come from a report."""
    bits = sum(row.position_bits for row in size.rows)
    stored = {"stored_bytes": size.stored_bytes, "dense_bytes": size.dense_bytes, "dense_params": size.dense_params}
    return {**stored, "macs": size.macs or 0, "position_bits": bits, "coded_bytes": size.coded_bytes}


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else hardware()
    day = date.today().isoformat()
    return {"device": str(device), "hardware": name, "threads": torch.get_num_threads(), "date": day}


def _levels(model: Classifier, quantize: Mapping[str, Any] | None, start: float | None) -> list[pl.Callback]:
    """The callback that trains with levels the layers that will be quantised."""
    if not quantize or start is None:
        return []
    if quantize.get("layers") == "all":
        code_dense_(model.net)
    learned = {name: quantize[name] for name in ("bits", "method", "vector") if name in quantize}
    return [FakeQuantize(**learned, start=start)]
