"""Saving with what is expected beside it, and a fresh process that loads."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from saved_models import FRESH
from torch import nn

import autosample
import autosample.models
from autosample.artifact import compact_state
from autosample.nn import compressed_layers, execution


@pytest.fixture
def saved(tmp_path) -> Callable[..., Path]:
    """Saves a model with what it must compute beside it."""

    def save(model: nn.Module, name: str, x: torch.Tensor, **options) -> Path:
        folder = tmp_path / name
        autosample.save(model, folder, **options)
        hard = autosample.harden_(model) if compressed_layers(model) else model
        with torch.no_grad(), execution("materialize"):
            expected = {"x": x, "y": hard(x)}
        expected |= {f"state.{k}": v.clone().contiguous() for k, v in compact_state(hard).items()}
        expected |= {
            f"weight.{k}": layer.weight.detach().clone()
            for k, layer in compressed_layers(hard).items()
            if layer.has_weight
        }
        safetensors.torch.save_file(expected, folder / "expected.bin")
        return folder

    return save


@pytest.fixture
def load_afresh() -> Callable[..., None]:
    """Loads folders in one fresh process and compares weights, outputs and stored tensors bit by bit."""

    def load(folders: list[Path]) -> None:
        text = json.dumps([str(folder) for folder in folders])
        done = subprocess.run([sys.executable, "-c", FRESH], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        wrong, heavy = json.loads(done.stdout)
        assert wrong == {}
        assert heavy == []

    return load


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
