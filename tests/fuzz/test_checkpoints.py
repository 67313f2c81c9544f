"""A damaged checkpoint of `fit` ends in an `AutosampleError`, or in a model. Nothing in it is run."""

import copy
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import NUMBERS, damaged_bytes, numbered, places_in, put, taken

from autosample.artifact import load_any
from autosample.errors import LONGEST, AutosampleError

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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the loaded model has NaN or infinity")  # it is told, as it should be
def test_no_checkpoint_does_harm(tmp_path):
    path, told = tmp_path / "last.ckpt", Counter()
    Trap.path = str(tmp_path / "touched")
    saved = {file: torch.load(file, weights_only=True) for file in FILES}
    for case, rng in numbered():
        file, kind = rng.choice(FILES), rng.choice(("bytes", "forged", "forged", "trap"))
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
