"""Born-again networks on CIFAR-10, measured: `python scripts/measure_generations.py DATA_ROOT [--out FOLDER]`.

For each seed, chains of `autosample generations` with experiment/born_again_cifar10: a dense net, its compact (folded)
twin, compact students of the dense net, one generation with each loss of the paper's ablation, and the dense net on
images as they are. FOLDER keeps all trainings: running it again goes on. The accuracies go to
results/methods/generations.json; with `--collect`, those that there are, without more training.
"""

import argparse
import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from autosample.system.configs import read
from autosample.system.files import write_json
from autosample.system.machine import hardware

ROOT = Path(__file__).resolve().parent.parent
CONFIG, SEEDS, COUNT = "experiment/born_again_cifar10", (0, 10, 20), 3


@dataclass(frozen=True)
class Chain:
    """Generations of one kind of net.

    Attributes:
        net: Name in the table.
        loss: The loss of all generations that have a teacher.
        spec: The spec of its layers; folded ones are four times smaller.
        taught: Whether the first one learns from the dense net, generation 0 of the first chain.
        options: More options of `fit`.
    """

    net: str
    loss: str
    count: int
    spec: str = "folded"
    taught: bool = False
    options: tuple[str, ...] = ()


FIRST = Chain("dense", "ban", COUNT, "dense")
AS_THEY_ARE = ("--data.padding", "0", "--data.flip", "false")
CHAINS = (
    FIRST,
    Chain("folded", "ban", COUNT),
    Chain("dense", "cwtm", 1, "dense", taught=True),
    Chain("dense", "dkpp", 1, "dense", taught=True),
    Chain("folded, first from dense", "ban", 2, taught=True),
    Chain("dense, not augmented", "ban", 1, "dense", options=AS_THEY_ARE),
)


def folder_of(chain: Chain, seed: int, out: Path) -> Path:
    """Where a chain is kept."""
    return out / f"{chain.net}-{chain.loss}-seed{seed}".replace(", ", "-").replace(" ", "-")


def run(chain: Chain, seed: int, root: str, out: Path) -> dict[str, object]:
    """The record of a chain; what is there already is not trained again."""
    folder = folder_of(chain, seed, out)
    if not (folder / "results.json").exists():
        words = [sys.executable, "-m", "autosample", "generations", "--count", str(chain.count), "--config", CONFIG]
        words += [
            "--seed",
            str(seed),
            "--loss",
            chain.loss,
            "--out",
            str(folder),
            "--data.root",
            root,
            "--model.spec",
            chain.spec,
        ]
        if chain.taught:
            words += ["--teacher", str(folder_of(FIRST, seed, out) / "generation-0/model")]
        subprocess.run(words, check=True)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for row in rows:
        row["trained"] = last_training_accuracy(folder / row["net"].replace(" ", "-"))
    return {"net": chain.net, "loss": chain.loss, "taught": chain.taught, "seed": seed, "rows": rows}


def last_training_accuracy(generation: Path) -> float | None:
    """Accuracy on the training images in the last epoch, while it learned [%]; `None` for an ensemble."""
    found = None
    for path in sorted(generation.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open() as file:
            for row in csv.DictReader(file):
                found = 100 * float(row["train/acc"]) if row.get("train/acc") else found
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", metavar="DATA_ROOT")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/generations")
    parser.add_argument("--collect", action="store_true")
    given = parser.parse_args()
    every = [(chain, seed) for chain in CHAINS for seed in SEEDS]
    done = [one for one in every if (folder_of(*one, given.out) / "results.json").exists()]
    records = [run(*one, given.root, given.out) for one in (done if given.collect else every)]
    about = {
        "command": "python scripts/measure_generations.py DATA_ROOT",
        "config": read(CONFIG),
        "hardware": hardware(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "chains": records,
    }
    write_json(ROOT / "results/methods/generations.json", about)


if __name__ == "__main__":
    main()
