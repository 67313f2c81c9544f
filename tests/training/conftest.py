"""Short trainings on the bundled digits."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from autosample.data import Digits
from autosample.training import Classifier

NET = {"model": "digitnet", "num_classes": 10, "ratio": 4, "lr": 3e-3}
# in convolutions the offsets of `autosample` are random unless it is told otherwise
LEARNED = {"afford": 10}


# what Lightning says of short loops, of loaders without workers, and what torch says of Lightning
NOTICES = (
    r".*treespec.*is deprecated",
    r".*does not have many workers",
    r".*smaller than the logging interval",
    r"Couldn.t infer the batch indices",
    r"You called `self.log\(",
    r"Checkpoint directory .* exists",
    r"You're resuming from a checkpoint that ended before the epoch ended",
)


@pytest.fixture(autouse=True)
def _no_notices():
    with warnings.catch_warnings():
        for message in NOTICES:
            warnings.filterwarnings("ignore", message=message)
        yield


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def digits() -> Callable[..., Digits]:
    return lambda **options: Digits(**{"batch_size": 16, "val_fraction": 0.1, **options})


@pytest.fixture
def classifier() -> Callable[..., Classifier]:
    def make(**options: Any) -> Classifier:
        if options.get("spec", "autosample") == "autosample":
            given = options.get("spec_args") or {}
            options["spec_args"] = {**given, "options": {**LEARNED, **given.get("options", {})}}
        return Classifier(**{**NET, **options})

    return make


@pytest.fixture
def trainer(tmp_path) -> Callable[..., pl.Trainer]:
    def make(**options: Any) -> pl.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        short = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1, "num_sanity_val_steps": 0}
        defaults = {"accelerator": "cpu", "enable_checkpointing": False, "default_root_dir": tmp_path}
        return pl.Trainer(**{**quiet, **short, **defaults, **options})

    return make
