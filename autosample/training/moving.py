"""Moves filters of folded layers between blocks, where that is learned, while a net trains."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Int
from torch import Tensor, nn

from autosample.nn import SummaryLayer, compressed_layers


class MoveFilters(pl.Callback):
    """Lets layers with `assignment: learned` move filters every few steps; `Classifier` adds it.

    Gradients are averaged over all processes, so all move the same filters. Layers hold everything that the next moves
    depend on, so this callback has no state to save.
    """

    def __init__(self) -> None:
        self._needed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._needed = bool(moving_layers(pl_module))  # looking for them looks at every module

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._needed:
            begin_step(pl_module, trainer.global_step, trainer.optimizers)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._needed:
            end_backward(pl_module, lambda gradient: trainer.strategy.reduce(gradient, reduce_op="mean"))


def moving_layers(model: nn.Module) -> list[SummaryLayer]:
    """The layers whose filters move between blocks, until they are frozen."""
    layers = [layer for layer in compressed_layers(model).values() if isinstance(layer, SummaryLayer)]
    return [layer for layer in layers if layer.offsets.moves is not None]


def begin_step(model: nn.Module, step: int, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Move filters if it is time, before the forward pass of a step; their numbers lose the optimizers' memory.

    Args:
        model: The model.
        step: Steps made so far.
        optimizers: The optimizers of its numbers.
    """
    for layer in moving_layers(model):
        moves = layer.offsets.moves
        assert moves is not None
        if moves.begin(step) and len(moved := moves.move()):
            rows = layer.offsets()[moved, :1] + torch.arange(layer.geometry.window, device=moved.device)
            for optimizer in optimizers:
                _forget(optimizer, layer.summary, rows.reshape(-1))


def end_backward(model: nn.Module, reduce: Callable[[Tensor], Any] = lambda gradient: gradient) -> None:
    """Add the gradients that a backward pass has brought; `reduce` averages them over processes."""
    for layer in moving_layers(model):
        moves = layer.offsets.moves
        if moves is not None and (gradient := moves.seen()) is not None:
            moves.add(reduce(gradient))
            moves.watching = False


def _forget(optimizer: torch.optim.Optimizer, parameter: Tensor, rows: Int[Tensor, "k"]) -> None:
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value[rows] = 0
