"""Several devices: batch norms over all processes, what they must agree on, and what the first one tells the others."""

import os
from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.layer_sync import LayerSync, TorchSyncBatchNorm
from pytorch_lightning.strategies import ParallelStrategy
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autosample.errors import ConfigError


class SyncNorms(LayerSync):
    """Lets batch norms compute over all processes while a net trains.

    Lightning's own plugin would drop the activations that are part of timm's norms, and would leave norms of another
    class behind.
    """

    def __init__(self) -> None:
        self._own: dict[str, _BatchNorm] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace the norms of `model`; parameters and buffers stay the same tensors."""
        found = model.named_modules(remove_duplicate=False)
        self._own = {name: norm for name, norm in found if isinstance(norm, _BatchNorm)}
        return convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the norms back that `apply` has replaced, with what they have learned."""
        for name, own in self._own.items():
            shared = model.get_submodule(name)
            own._parameters, own._buffers = shared._parameters, shared._buffers  # another device has others
            own.train(shared.training)
            model.set_submodule(name, own)
        return model


def check_devices(trainer: pl.Trainer) -> None:
    """Let norms that are shared over the processes of a trainer be ours.

    Raises:
        ConfigError: Norms cannot be shared on this device.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy) or not isinstance(strategy._layer_sync, TorchSyncBatchNorm):
        return
    if strategy.root_device.type == "cpu":
        raise ConfigError(
            "torch shares batch norms between accelerators only, got sync_batchnorm on the CPU: leave it out there"
        )
    strategy._layer_sync = SyncNorms()


def check_start(trainer: pl.Trainer) -> None:
    """Raise `ConfigError` unless all processes begin from the same checkpoint. Every process must call this."""
    mine = str(trainer.ckpt_path)
    first = trainer.strategy.broadcast(mine)
    if mine != first:
        raise ConfigError(
            f"all processes must begin from one checkpoint, got {mine} in process {trainer.global_rank} and {first} in "
            "the first: put --trainer.default_root_dir on a file system that all nodes share"
        )


def check_processes(trainer: pl.Trainer) -> None:
    """Raise `ConfigError` unless a trainer has the processes that torchrun started: others would train alone."""
    if torch.distributed.is_torchelastic_launched():
        started = int(os.environ["WORLD_SIZE"])
        if started != trainer.world_size:
            raise ConfigError(
                f"torchrun has started {started} processes, got a trainer for {trainer.world_size}: set "
                "--trainer.devices to --nproc-per-node, and --trainer.num_nodes to --nnodes"
            )


@torch.no_grad()
def share(trainer: pl.Trainer, named: Iterable[tuple[str, Tensor]]) -> None:
    """Give these tensors of all processes the numbers of the first. Every process must call this."""
    if trainer.world_size > 1:
        mine = dict(named)
        first = trainer.strategy.broadcast({name: tensor.cpu() for name, tensor in mine.items()})
        for name, tensor in mine.items():
            tensor.copy_(first[name])
