"""The dense net that a cell starts or learns from. It is trained on the same data, once for all cells of a seed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file

from autosample.data import ClassificationData
from autosample.experiments.grid import Cell
from autosample.experiments.identity import UNCOMPRESSED
from autosample.experiments.resolve import resolve
from autosample.experiments.trainer import NOISY, deterministic_on_cpu, trainer_for
from autosample.model.recipe import Recipe
from autosample.system.quiet import quiet
from autosample.training import Classifier

# arguments that need a teacher
_TAUGHT = ("teacher_epochs", "warm_start", "distill", "temperature", "teacher", "inherit")
# dense nets of one seed, by what their cells share and the cells' ids: cells of a seed follow each other
_WEIGHTS: dict[tuple[str, str], dict[str, torch.Tensor]] = {}


def arguments(cell: Cell, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `Classifier` and of `train` for a cell; `recipe` has the cell's size."""
    given = {name: value for name, value in cell.train.items() if name != "teacher_epochs"}
    if cell.preset not in UNCOMPRESSED:
        given.pop("cluster_penalty", None)  # it is for the dense net that the cell starts from
    options = {"epochs": given.pop("epochs", 1), "precision": given.pop("precision", "32-true")}
    return {**given, **recipe.arguments(), "seed": cell.seed}, options


@contextmanager
def dense_weights(cell: Cell, data: ClassificationData) -> Iterator[dict[str, Any]]:
    """Recipe fields that load the weights of a dense net, trained for `teacher_epochs` on the same data.

    Empty if the cell trains from scratch. Cells that differ only in how they compress share the dense net.
    """
    epochs = cell.train.get("teacher_epochs")
    if not epochs:
        yield {}
        return
    train = {name: value for name, value in cell.train.items() if name not in (*_TAUGHT, "epochs")}
    net = replace(cell.recipe, spec="dense", overrides=None, planned_bits=32)
    dense = replace(cell, recipe=net, size=None, quantize={}, train={**train, "epochs": epochs})
    if _key(dense) not in _WEIGHTS:
        settings, options = arguments(dense, resolve(dense).recipe)
        pl.seed_everything(cell.seed, verbose=False)
        model = Classifier(**settings)
        with quiet(*NOISY), deterministic_on_cpu():
            trainer_for(options["epochs"], precision=options["precision"], logger=False).fit(model, datamodule=data)
        keep(dense, model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.safetensors"
        save_file(_WEIGHTS[_key(dense)], path)
        yield {"model_args": {**(net.model_args or {}), "checkpoint_path": str(path)}}


def keep(dense: Cell, model: Classifier) -> None:
    """Keep the weights of a trained dense net for the cells of its seed that start or learn from it."""
    seed, _ = key = _key(dense)
    for other in [found for found in _WEIGHTS if found[0] != seed]:
        del _WEIGHTS[other]
    _WEIGHTS[key] = {name: t.detach().cpu().contiguous() for name, t in model.net.state_dict().items()}


def _key(cell: Cell) -> tuple[str, str]:
    return str((cell.data, cell.data_args, cell.seed, cell.fold, cell.holdout)), cell.id
