"""How far and how fast what rules learn moves: offsets, choices, blocks, signs."""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from autosample.errors import AutosampleWarning
from autosample.nn import compressed_layers
from autosample.sampling import Offsets
from autosample.training.freezing import progress
from autosample.training.groups import FAST


class Paths:
    """Follows what the rules of a net learn, step by step."""

    def __init__(self) -> None:
        self._told = False
        self._forget(0)

    def _forget(self, step: int) -> None:
        self._paths: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._first = step

    def begin(self, module: nn.Module, step: int) -> None:
        """Begin new paths; `step` is the number of optimizer steps so far."""
        self._forget(step)
        self.follow(module)

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Add the last step to the path of each layer."""
        for name, rule in rules(module).items():
            if (trace := rule.trace()) is None:
                continue
            if (last := self._last.get(name)) is not None:
                self._paths[name] = self._paths.get(name, 0) + moved(rule, trace, last).mean()
            self._last[name] = trace.clone()

    def speeds(self, trainer: pl.Trainer, module: nn.Module) -> dict[str, float]:
        """The mean path of each layer per optimizer step, in its rule's unit; new paths begin.

        Offsets that move by more than a row a step are told once.
        """
        steps = max(trainer.global_step - self._first, 1)
        found = {name: float(path) / steps for name, path in self._paths.items()}
        self.begin(module, trainer.global_step)
        known = rules(module)
        self._tell_fast(trainer, {name: speed for name, speed in found.items() if known[name].unit == "rows"})
        return found

    def _tell_fast(self, trainer: pl.Trainer, speeds: Mapping[str, float]) -> None:
        fastest = max(speeds, key=speeds.__getitem__, default="")
        if speeds and speeds[fastest] > FAST and not self._told:
            self._told = True
            rank_zero_warn(
                f"learned offsets diverge in epoch {trainer.current_epoch}: they move by {speeds[fastest]:.3g} rows a "
                f'step in "{fastest}", and above a row nets do worse than with fixed ones: lower the option rate',
                category=AutosampleWarning,
            )


def rules(module: nn.Module) -> dict[str, Offsets]:
    """The rules of all summary layers, by the layers' names."""
    found = {name: getattr(layer, "offsets", None) for name, layer in compressed_layers(module).items()}
    return {name: rule for name, rule in found.items() if isinstance(rule, Offsets)}


def positions(module: nn.Module) -> dict[str, Tensor]:
    """What learns or has learned, by the layers' names, on the CPU: integer offsets, choices, or what `trace` gives."""
    traces = {name: rule.trace() for name, rule in rules(module).items() if not rule.learned}
    others = {name: trace.detach().cpu().clone() for name, trace in traces.items() if trace is not None}
    return {**learned_offsets(module), **others}


def moved(rule: Offsets, now: Tensor, before: Tensor) -> Tensor:
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
    known = rules(module)
    return {
        name: told(trainer, module, name, moved(known[name], offsets, start[name]))
        for name, offsets in learned_offsets(module).items()
    }


def told(trainer: pl.Trainer, module: nn.Module, name: str, distance: Tensor) -> dict[str, float | bool]:
    """What `distances` says of the layer `name`, from the distances of its offsets."""
    rule, until = rules(module)[name], compressed_layers(module)[name].learns_until
    low, middle, high = torch.quantile(distance.flatten(), torch.tensor([0.1, 0.5, 0.9])).tolist()
    return {
        "share_moved": float((distance > 0).float().mean()),
        "mean": float(distance.mean()),
        "p10": low,
        "p50": middle,
        "p90": high,
        "frozen": rule.learned and progress(trainer, trainer.global_step - 1) >= until,  # as of the last step's start
    }
