"""The script of the real run: what it compares, and its tables."""

import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
ABOUT = {"date": "2026-01-02", "hardware": "a processor", "torch": "0", "seed": 0}
MARKS = [{"share": share, "workers": [{"resident": 2e8, "own": 5e7}]} for share in (0.1, 1.0)]
PARTS = ("current_model_state", "optimizer_states", "lr_schedulers", "state_dict", "averaging_state")
SAME = dict.fromkeys((*PARTS, "train/loss", "train/acc", "val/loss", "test/loss"), True)
RECORDS = {
    "pictures": {
        "pictures": 20160, "bytes": 4e8, "size": 224, "classes": 64, "packed": {"tar": {"files": 2, "bytes": 5e8}},
    },
    "resumed": {"rows": [
        {"kept": "folder", "killed": False, "steps": 48, "equal": SAME},
        {"kept": "shards", "killed": True, "steps": 48, "equal": {**SAME, "train/loss": False},
         "kill": {"step": 28, "batch_of_epoch": 4}},
    ]},
    "processes": {"rows": [
        {"precision": "32-true", "steps": 6, "apart": {"weights": 1e-3, "moments": 2e-5, "loss": 0.0}},
    ]},
    "cifar10": {"steps": 300, "batch": 64, "accuracy": 34.5, "chance": 10.0},
    "esc10-folded": {"epochs": 5, "chance": 10.0, "rows": [
        {"fold": fold, "accuracy": 10.0 * fold, "stored_bytes": 7_100_000} for fold in range(1, 6)
    ]},
    "memory": {"workers": 1, "rows": [{"kept": "folder", "pictures": 18560, "marks": MARKS}]},
}  # fmt: skip
TOLD = {
    "pictures": "| folders | 20,160 | 400 |",
    "resumed": "| shards | 28, batch 4 of its epoch | 48 | the same | the same | the same | **differs** |",
    "processes": "| 32-true | 6 | 1.0e-03 | 2.0e-05 | 0.0e+00 |",
    "cifar10": "| 300 steps of 64 pictures | 34.50 | 10 | 0 |",
    "esc10": "| `folded` | 7.1 | 10.0 | 20.0 | 30.0 | 40.0 | 50.0 | 30.0 |",
    "memory": "| folder | 1 | 200 (50) | 200 (50) |",
}


@pytest.fixture
def tables(tables_of):
    return tables_of("real_run")


def test_without_records_the_page_says_how_to_make_them(tables):
    for name in TOLD:
        assert getattr(tables, name)().startswith("No record yet: `python scripts/real_run.py OUT DATA_ROOT --parts")


def test_tables_of_records(tables, tmp_path):
    folder = tmp_path / "results" / "real-run"
    folder.mkdir(parents=True)
    for part, record in RECORDS.items():
        command = f"python scripts/real_run.py OUT DATA_ROOT --parts {part}"
        (folder / f"{part}.json").write_text(
            json.dumps({**ABOUT, **record, "command": command, "commands": ["autosample fit", "a", "b"]})
        )
    for name, line in TOLD.items():
        text = getattr(tables, name)()
        assert line in text, text
        assert "a processor, torch 0, 2026-01-02." in text


def test_ends_of_trainings_are_compared_to_the_bit(script, tmp_path):
    training = script("realrun.training")

    def end(name, weight, loss):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        saved = {"current_model_state": {"w": torch.tensor([0.0, weight])}, "optimizer_states": [{"step": 3}]}
        torch.save({**saved, "global_step": 3}, tmp_path / name / "checkpoints" / "last.ckpt")
        (tmp_path / name / "metrics.csv").write_text(f"train/loss,step\n,0\n{loss},3\n")
        return training._ended(tmp_path / name)

    wanted = end("a", 1.0, 0.5)
    assert all(training._equal(wanted, wanted).values())
    other = training._equal(end("b", 1.0 + 2**-23, 0.5), wanted)
    assert [name for name, same in other.items() if not same] == ["current_model_state"]
    assert [name for name, same in training._equal(end("c", 1.0, 0.25), wanted).items() if not same] == ["train/loss"]


def test_commands_are_noted_as_a_reader_types_them(script, tmp_path):
    place = script("realrun.running").Place(tmp_path / "out", tmp_path / "data", True, tmp_path)
    place.tell(["fit", "--data.root", tmp_path / "out" / "pictures", "--trainer.max_epochs", 2])
    place.tell(["scripts/make_pictures.py", tmp_path / "data"])
    assert place.commands == [
        "autosample fit --data.root OUT/pictures --trainer.max_epochs 2",
        "python scripts/make_pictures.py DATA_ROOT",
    ]
