"""Small grids, and records that no training made."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosample.experiments.grid import Cell, Grid
from autosample.experiments.parse import make_grid
from autosample.experiments.record import Record

SMALL = {
    "name": "small",
    "data": {"class": "Digits", "batch_size": 256},
    "model": {"name": "digitnet", "num_classes": 10, "in_chans": 1},
    "train": {"epochs": 1},
    "presets": ["dense", "random"],
    "ratios": [8],
    "seeds": 2,
}


@pytest.fixture
def grid() -> Callable[..., Grid]:
    """A grid of two seeds, with changes."""
    return lambda **changes: make_grid({k: v for k, v in {**SMALL, **changes}.items() if v is not None})


@pytest.fixture
def record() -> Callable[..., Record]:
    """A record of a cell, as if it had been run."""

    def make(cell: Cell, accuracy: float = 0.5, **changes: Any) -> Record:
        usual = {
            "settings": {}, "stored_bytes": 1000, "dense_bytes": 8000, "macs": 7, "seconds": 2.0, "torch": "0",
            "dense_params": 2000,
        }  # fmt: skip
        return Record(**{**usual, "accuracy": accuracy, "cell": cell.identity, **changes})

    return make


@pytest.fixture
def script(monkeypatch) -> Callable[[str], Any]:
    """A script as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module


@pytest.fixture
def tables_of(script, tmp_path, monkeypatch) -> Callable[[str], Any]:
    """A module of scripts/doctables that reads the records of the test's folder."""
    monkeypatch.setattr(script("doctables.records"), "ROOT", tmp_path)
    return lambda name: script(f"doctables.{name}")
