"""The log of what rules learn: how far and how fast offsets and selections move, and what freezing them costs."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from autosample.nn import compressed_layers
from autosample.sampling import Offsets
from autosample.training.callbacks import append_rows, run_folder
from autosample.training.freezing import progress, val_accuracy
from autosample.training.groups import FAST

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
        self._told = False
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
            self.start = _positions(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._forget(trainer.global_step)
        self._follow(pl_module)

    @torch.no_grad()
    def _follow(self, module: nn.Module) -> None:
        """Add the last step to the path of each layer's offsets."""
        for name, rule in _rules(module).items():
            if (trace := rule.trace()) is None:
                continue
            if (last := self._last.get(name)) is not None:
                self._paths[name] = self._paths.get(name, 0) + _distance(rule, trace, last).mean()
            self._last[name] = trace.clone()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not self.start:
            return
        self._follow(pl_module)
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
        steps = max(trainer.global_step - self._first, 1)
        speeds = {name: float(path) / steps for name, path in self._paths.items()}
        self._forget(trainer.global_step)
        self._follow(pl_module)
        rules = _rules(pl_module)
        self._tell_fast(trainer, {name: speed for name, speed in speeds.items() if rules[name].unit == "rows"})
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        rows, moved = [], {}
        for name, now in _positions(pl_module).items():
            if name not in self.start:
                continue  # a checkpoint of an earlier version did not follow it
            distance = _distance(rules[name], now, self.start[name])
            found = _told(trainer, pl_module, name, distance)
            rows.append([trainer.current_epoch, name, *found.values(), speeds.get(name, 0.0), rules[name].unit])
            moved[name] = distance.flatten().numpy()
        append_rows(folder / "offsets.csv", _HEADER, rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb  # Lightning's logger has imported it

                logger.experiment.log({f"moved/{name}": wandb.Histogram(value) for name, value in moved.items()})

    def _tell_fast(self, trainer: pl.Trainer, speeds: Mapping[str, float]) -> None:
        fastest = max(speeds, key=speeds.__getitem__, default="")
        if speeds and speeds[fastest] > FAST and not self._told:
            self._told = True
            rank_zero_warn(
                f"learned offsets diverge in epoch {trainer.current_epoch}: they move by {speeds[fastest]:.3g} rows a "
                f'step in "{fastest}", and above a row nets do worse than with fixed ones: lower the option rate'
            )


def _log(trainer: pl.Trainer, name: str, value: float | None) -> None:
    if value is not None:
        for logger in trainer.loggers:
            logger.log_metrics({name: value}, step=trainer.global_step)


def _rules(module: nn.Module) -> dict[str, Offsets]:
    """The rules of all summary layers, by the layers' names."""
    rules = {name: getattr(layer, "offsets", None) for name, layer in compressed_layers(module).items()}
    return {name: rule for name, rule in rules.items() if isinstance(rule, Offsets)}


def _ends(module: nn.Module) -> list[float]:
    """The shares of the training after which what learns now freezes."""
    layers = [(layer, getattr(layer, "offsets", None)) for layer in compressed_layers(module).values()]
    learning = [(layer, rule) for layer, rule in layers if isinstance(rule, Offsets) and rule.learned]
    return [layer.learns_until for layer, rule in learning if rule.trace() is not None]


def _positions(module: nn.Module) -> dict[str, Tensor]:
    """What learns or has learned, by the layers' names, on the CPU: integer offsets, choices, or what `trace` gives."""
    traces = {name: rule.trace() for name, rule in _rules(module).items() if not rule.learned}
    others = {name: trace.detach().cpu().clone() for name, trace in traces.items() if trace is not None}
    return {**learned_offsets(module), **others}


def _distance(rule: Offsets, now: Tensor, before: Tensor) -> Tensor:
    """How far what a rule learns has moved, number by number."""
    return (now != before).float() if rule.unit == "changes" else (now - before).abs().float()


def learned_offsets(module: nn.Module) -> dict[str, Tensor]:
    """Integer offsets `(N, G)` of each layer that learns or has learned them, by name, on the CPU."""
    found = {name: layer.learned_offsets() for name, layer in compressed_layers(module).items()}
    return {name: offsets.cpu() for name, offsets in found.items() if offsets is not None}


def distances(
    trainer: pl.Trainer, module: nn.Module, start: Mapping[str, Tensor]
) -> dict[str, dict[str, float | bool]]:
    """Distance of learned offsets from `start`, by layer: share moved, mean and quantiles [rows], whether frozen."""
    rules = _rules(module)
    return {
        name: _told(trainer, module, name, _distance(rules[name], offsets, start[name]))
        for name, offsets in learned_offsets(module).items()
    }


def _told(trainer: pl.Trainer, module: nn.Module, name: str, distance: Tensor) -> dict[str, float | bool]:
    rule, until = _rules(module)[name], compressed_layers(module)[name].learns_until
    low, middle, high = torch.quantile(distance.flatten(), torch.tensor([0.1, 0.5, 0.9])).tolist()
    return {
        "share_moved": float((distance > 0).float().mean()),
        "mean": float(distance.mean()),
        "p10": low,
        "p50": middle,
        "p90": high,
        "frozen": rule.learned and progress(trainer, trainer.global_step - 1) >= until,  # as of the last step's start
    }
