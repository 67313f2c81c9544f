"""What a training needs to go on from any step with the very numbers of one without a break."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from autosample.errors import ArtifactError
from autosample.sampling import LearnedOffsets
from autosample.system.seeds import mixed_seed
from autosample.training.pieces import piece_like, put_together

# where the seeds of data have a rank, the seeds of steps have this number
_OF_STEPS = 2**31


def seed_step(seed: int, epoch: int, batch: int, device: torch.device) -> None:
    """Let all random numbers of a step on this device depend only on these numbers."""
    mixed = mixed_seed(seed, epoch, batch, _OF_STEPS)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 - timm's Mixup draws from these
    if device.type == "cpu":  # the general call takes half a millisecond, and a step on the CPU may take a few
        torch.default_generator.manual_seed(mixed)
    else:
        torch.manual_seed(mixed)


def give_place_back(trainer: pl.Trainer) -> None:
    """Give a data loader its place in the epoch back, when training begins.

    Lightning does this when it makes the loader. But it made the loader before it read the checkpoint, as the schedule
    asked for the number of steps.
    """
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


def open_gradients(trainer: pl.Trainer, net: nn.Module) -> dict[str, Tensor] | None:
    """Gradients that wait for more batches before the optimizer's step; `None` if no step is open."""
    if not trainer.training or not trainer.fit_loop.epoch_loop._should_accumulate():
        return None
    return put_together({name: p.grad for name, p in net.named_parameters() if p.grad is not None})


def set_gradients(net: nn.Module, gradients: Mapping[str, Any]) -> None:
    """Set the gradients that `open_gradients` returned."""
    for name, parameter in net.named_parameters():
        if name in gradients:
            parameter.grad = piece_like(gradients[name].to(parameter.device, parameter.dtype), parameter)
