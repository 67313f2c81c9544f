"""Several devices: which strategies of Lightning suit nets that sample, and batch norms over all processes."""

import os

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.layer_sync import LayerSync, TorchSyncBatchNorm
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy, ParallelStrategy
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
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
    """Check the strategy of a trainer, and let norms that are shared be ours.

    Raises:
        ConfigError: The strategy shards parameters, or norms cannot be shared on this device.
    """
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        raise ConfigError(
            "layers that sample need all their numbers on each device, got a strategy that shards them: use "
            "--trainer.strategy ddp (a compressed net has few numbers)"
        )
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
