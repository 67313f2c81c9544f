"""What a training needs to go on from any step with the very numbers of one without a break."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from autosample.errors import ArtifactError
from autosample.sampling import LearnedOffsets
from autosample.system.seeds import mixed_seed
from autosample.training.pieces import piece_like

# where the seeds of data have a rank, the seeds of steps have this number
_OF_STEPS = 2**31
#: Names under which a checkpoint has what `open_parts` returns.
OPEN = ("gradients", "metrics")


def seed_step(seed: int, epoch: int, batch: int, device: torch.device) -> None:
    """Let all random numbers of a step on this device depend only on these numbers."""
    mixed = mixed_seed(seed, epoch, batch, _OF_STEPS)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 - timm's Mixup draws from these
    if device.type == "cpu":  # the general call takes half a millisecond, and a step on the CPU may take a few
        torch.default_generator.manual_seed(mixed)
    else:
        torch.manual_seed(mixed)


def go_on(trainer: pl.Trainer, net: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """When training begins, set `gradients` of an open step, and give a data loader its place in the epoch back.

    Lightning does the latter when it makes the loader. But it made the loader before it read the checkpoint, as the
    schedule asked for the number of steps.
    """
    for name, parameter in net.named_parameters():
        if name in gradients:
            parameter.grad = piece_like(gradients[name].to(parameter.device, parameter.dtype), parameter)
    loop = trainer.fit_loop
    if loop.restarting and loop._combined_loader_states_to_load and loop._data_fetcher is not None:
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)


def check_units(trainer: pl.Trainer | None, net: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise `ArtifactError` if learned offsets of a training that goes on have another unit than in its checkpoint.

    Offsets are converted, but the state of the optimizer, which holds their gradients and rates, is not.
    """
    if trainer is None or not trainer.training:
        return
    for name, rule in net.named_modules():
        if not isinstance(rule, LearnedOffsets):
            continue
        start = f"net.{name}."
        own = {key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)}
        frozen = own.get("frozen_bits", own.get("frozen"))
        if rule.in_old_unit(own) and not (frozen is not None and bool(frozen.any())):
            raise ArtifactError(
                f"offsets must be learned in the unit they began with, got a checkpoint of an earlier version for "
                f'"{name}": go on with that version, or start again (load_from_checkpoint keeps the weights)'
            )


def open_parts(trainer: pl.Trainer, net: nn.Module, metrics: nn.ModuleDict) -> dict[str, dict[str, Tensor]]:
    """What a training needs to go on within a step, and within an epoch.

    Every process must call this, unless one of them has failed.

    Returns:
        `gradients` that wait for more batches before the optimizer's step, and what `metrics` of training hold; without
        those of them that are not open.
    """
    if not trainer.training:
        return {}
    parts = {"gradients": _open_gradients(trainer, net), "metrics": _open_metrics(trainer, metrics)}
    return {name: part for name, part in parts.items() if part}


def _open_gradients(trainer: pl.Trainer, net: nn.Module) -> dict[str, Tensor]:
    if not trainer.fit_loop.epoch_loop._should_accumulate():
        return {}
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def _open_metrics(trainer: pl.Trainer, metrics: nn.ModuleDict) -> dict[str, Tensor]:
    """The sums of all processes; nothing between epochs."""
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        return {}
    if trainer.world_size > 1 and trainer.interrupted:  # the others may not be here
        return {}
    found = {f"{name}.{key}": value.clone() for name, metric in _of_training(metrics) for key, value in _sums(metric)}
    return {key: trainer.strategy.reduce(value, reduce_op="sum") for key, value in found.items()}


def set_metrics(trainer: pl.Trainer, metrics: nn.ModuleDict, saved: Mapping[str, Any]) -> None:
    """Give the first process the metrics that `open_parts` returned; an epoch ends with the sum over all processes."""
    if not trainer.is_global_zero:
        return
    for name, metric in _of_training(metrics):
        for key, value in _sums(metric):
            if (held := saved.get(f"{name}.{key}")) is not None:
                setattr(metric, key, held.to(value.device))


def _of_training(metrics: nn.ModuleDict) -> list[tuple[str, Metric]]:
    return [(name, metrics[name]) for name in ("on_train", "loss") if name in metrics]  # pyright: ignore


def _sums(metric: Metric) -> list[tuple[str, Tensor]]:
    """The sums that a metric keeps."""
    return [(key, value) for key, value in metric.metric_state.items() if isinstance(value, Tensor)]
