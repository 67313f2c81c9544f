"""A damaged checkpoint of `fit` ends in an `AutosampleError`, or in a model. Nothing in it is run."""

import copy
import pickle
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fuzzing import NUMBERS, damaged_bytes, numbered, places_in, put, taken

from autosample.artifact import load_any
from autosample.data import Digits
from autosample.errors import LONGEST, AutosampleError
from autosample.training import Classifier, FakeQuantize, WholeCheckpoints

FILES = sorted((Path(__file__).parents[1] / "fixtures" / "checkpoints").glob("*.ckpt"))
VALUES = (
    *NUMBERS, None, True, 0.5, 1e308, "", "x", "dense", "random", "\ud800", "hf-hub:someone/net", [], {}, [2**40],
    "x" * 50_000, torch.zeros(3), torch.zeros(0), torch.zeros(2, dtype=torch.float64), torch.ones(1, dtype=torch.int64),
)  # fmt: skip


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(Trap.path),)

    path = ""


def forged(saved: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    saved = copy.deepcopy(saved)
    for _ in range(rng.choice((1, 1, 2))):
        part = rng.choice((*["hyper_parameters", "state_dict", "autosample"] * 3, ""))
        inside = saved.get(part) if part else saved
        places = places_in(dict(inside)) if isinstance(inside, dict) else []
        if not places:
            continue
        path, value = rng.choice(places), rng.choice(VALUES)
        if rng.random() < 0.2:
            taken(inside, path[:-1]).pop(path[-1]) if isinstance(taken(inside, path[:-1]), dict) else None
        else:
            put(inside, path, copy.deepcopy(value))
    return saved


@pytest.fixture(scope="module")
def folded(tmp_path_factory) -> Path:
    """A checkpoint with the fields of `folded`: no release has written such fixtures."""
    folder = tmp_path_factory.mktemp("folded")
    options = {"windows": 4, "options": {"blocks": 3, "overlap": 1}}
    net = Classifier("digitnet", num_classes=10, spec="folded", ratio=4, spec_args=options)
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", limit_val_batches=0, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, plugins=[WholeCheckpoints()], enable_checkpointing=False,
        callbacks=[FakeQuantize(4, start=0.0)],
    )  # fmt: skip
    with warnings.catch_warnings(action="ignore"):
        trainer.fit(net, datamodule=Digits(batch_size=16))
    trainer.save_checkpoint(folder / "folded.ckpt")
    return folder / "folded.ckpt"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the loaded model has NaN or infinity")  # it is told, as it should be
def test_no_checkpoint_does_harm(tmp_path, folded):
    path, told = tmp_path / "last.ckpt", Counter()
    Trap.path = str(tmp_path / "touched")
    saved = {file: torch.load(file, weights_only=True) for file in (*FILES, folded)}
    for case, rng in numbered():
        file, kind = rng.choice((*FILES, *[folded] * 3)), rng.choice(("bytes", "forged", "forged", "trap"))
        if kind == "bytes":
            path.write_bytes(damaged_bytes(file.read_bytes(), rng))
        elif kind == "forged":
            torch.save(forged(saved[file], rng), path)
        else:
            data = {**saved[file], rng.choice(("callbacks", "hyper_parameters", "loops", "autosample")): Trap()}
            torch.save(data, path) if rng.random() < 0.7 else path.write_bytes(pickle.dumps(data))
        try:
            model, _ = load_any(path)
            told[f"{kind} loaded"] += 1
            said = ""
            assert not model.training
        except AutosampleError as error:
            told[f"{kind} refused"] += 1
            said = str(error)
        except BaseException as error:
            pytest.fail(f"case {case} ({kind}, {file.name}): {type(error).__name__}: {error!s:.300}")
        assert len(said) <= LONGEST, case
        assert not Path(Trap.path).exists(), case
    print(f"checkpoints: {dict(told)}")
    assert told["trap loaded"] == 0
