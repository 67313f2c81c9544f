"""From a folder of records to the tables of the documents, and back."""

import importlib
import json
from pathlib import Path

import pytest

from autosample.experiments.collect import write_tables
from autosample.experiments.record import records_in, write_record

MACHINE = {"device": "cpu", "hardware": "a processor", "threads": 1, "date": "2026-01-02"}
ACCURACY = {
    "dense": 0.9, "wsnet": 0.6, "random": 0.7, "random 4 bits root": 0.75, "hashednet": 0.8, "fsnet": 0.9,
    "autosample": 0.78,
}  # fmt: skip
RULES = [
    *("dense", "wsnet", "random", "hashednet", "fsnet"),
    {"preset": "random", "share": "root", "bits": 4, "label": "random 4 bits root"},
    "autosample",
]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A script as a module that keeps its results in a folder of the test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))

    def load(name):
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results", raising=False)
        return module

    return load


@pytest.fixture
def finished(grid, record, tmp_path):
    """A folder as `autosample ablate` leaves it, but for one run of fsnet."""
    made = grid(presets=RULES, compare="autosample")
    out = tmp_path / "out"
    lacking = next(c.id for c in made.cells if c.label == "fsnet" and c.seed == 1)
    for cell in made.cells:
        if cell.id != lacking:
            score = ACCURACY[cell.label] + 0.02 * cell.seed
            date = f"2026-01-0{2 + cell.seed}"
            kept = record(cell, score, machine=MACHINE | {"date": date}, val_accuracy=None)
            write_record(out / "records" / f"{cell.name}.json", kept)
    write_tables(made, {c.id: r for c in made.cells for p, r in records_in(out / "records") if c.name in p.name}, out)
    (out / "accuracy.png").write_bytes(b"a picture")
    return out


def test_what_is_published_tells_command_machine_and_dates_and_can_be_restored(script, finished, tmp_path):
    publish = script("publish")
    publish.publish(finished, "--threads 1")
    folder = tmp_path / "results/ablation/small"
    assert json.loads((folder / "about.json").read_text()) == {
        "command": "autosample ablate autosample/configs/ablation/small.yaml --threads 1",
        "hardware": "a processor",
        "torch": "0",
        "date": "2026-01-02 to 2026-01-03",
    }
    assert (folder / "accuracy.png").read_bytes() == b"a picture"
    publish.restore("small", tmp_path / "again")
    before, after = (
        {path.name: kept for path, kept in records_in(root / "records")} for root in (finished, tmp_path / "again")
    )
    assert before == after
    assert len(before) == 13


def test_the_summary_has_the_rules_beside_each_other(script, finished):
    script("publish").publish(finished, "")
    head, _, line = script("update_docs").summary().splitlines()
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "[Digits](results/ablation/small/table.md)",
        *("`digitnet`", "8.0x", "32", "91.00 ± 1.41", "61.00 ± 1.41", "71.00 ± 1.41", "76.00 ± 1.41"),
        *("81.00 (`hashednet`)", "79.00 ± 1.41", "+18.00 (0)", "+8.00 (0)", "2"),
    ]
    assert head.count("|") == line.count("|")


def test_documents_are_filled_between_their_marks(script, finished):
    script("publish").publish(finished, "")
    docs = script("update_docs")
    assert (
        docs.filled("a\n<!-- x -->\nold\n<!-- /x -->\nb", {"x": lambda: "new"}) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    )
    text = docs.ablations()
    assert text.startswith("## small\n")
    assert "1 of 2" in text
    assert (
        "`autosample ablate autosample/configs/ablation/small.yaml`, a processor, torch 0, 2026-01-02 to 2026-01-03."
        in text
    )
    assert "](../results/ablation/small/accuracy.png)" in text
