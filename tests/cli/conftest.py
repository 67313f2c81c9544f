"""The command line in this process: what it prints, and the code it ends with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from autosample.cli.main import main

# a net that trains in a second
SHORT = (
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=2",
    "--trainer.limit_predict_batches=2",
)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def autosample(capsys, monkeypatch) -> Callable[..., Ended]:
    """Runs the command line with the arguments given, each turned into text."""
    monkeypatch.setattr("sys.argv", ["autosample"])  # Lightning looks at it

    def run(*args: Any) -> Ended:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def fit(autosample, tmp_path) -> Callable[..., Ended]:
    """`fit` of the digits' config, short, into `tmp_path`."""
    base = ("fit", "--config", "experiment/digits", "--model.model=digitnet", *SHORT)
    return lambda *options: autosample(*base, "--trainer.default_root_dir", tmp_path, *options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a short run of WSNet at ratio 16."""
    out = tmp_path_factory.mktemp("trained")
    configs = ("--config=experiment/digits", "--config", "spec/wsnet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["autosample"])
        options = ("--model.model=digitnet", "--model.ratio=16", f"--trainer.default_root_dir={out}")
        assert main(["fit", *configs, *options, *SHORT]) == 0
    return out / "digits" / "version_0"
