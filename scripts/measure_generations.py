"""Born-again networks on CIFAR-10, measured: `python scripts/measure_generations.py DATA_ROOT [--out FOLDER]`.

For each seed, chains of `autosample generations` with experiment/born_again_cifar10, in two regimes: 20 epochs of
augmented images, and 30 epochs of images as they are, which nets come nearer to knowing by heart, as those of the
paper do. In each, a dense net, its compact (folded) twin, and one generation with each loss of the paper's ablation; in
the second also students of another kind than their dense teacher. FOLDER keeps all trainings: running it again goes on.
The accuracies go to results/methods/generations.json; with `--collect`, those that there are, without more training.
"""

import argparse
import csv
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
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
        regime: A key of `REGIMES`.
        net: Name in the table.
        loss: The loss of all generations that have a teacher.
        count: Generations that have a teacher.
        taught: Whether the first of them learns from the dense net, generation 0 of the first chain of the regime.
    """

    regime: str
    net: str
    loss: str = "ban"
    count: int = 1
    taught: bool = False


REGIMES = {
    "augmented": (),
    "as they are": ("--data.padding", "0", "--data.flip", "false", "--trainer.max_epochs", "30"),
}
# as in the paper, a student of another kind keeps its teacher's first and last layer
INHERITED = ("--model.inherit", "[features.conv0, classifier]")
NETS = {
    "dense": ("--model.spec", "dense"),
    "folded": ("--model.spec", "folded"),
    "residual": ("--model.spec", "dense", "--model.model_args.residual_blocks", "1"),
}
ABLATION = (
    ("dense", "ban", COUNT, False),
    ("dense", "cwtm", 1, True),
    ("dense", "dkpp", 1, True),
    ("folded", "ban", COUNT, False),
)
CHAINS = (
    *(Chain(regime, *chain) for regime in REGIMES for chain in ABLATION),
    Chain("as they are", "folded", count=2, taught=True),
    Chain("as they are", "residual"),
    Chain("as they are", "residual", taught=True),
)


def folder_of(chain: Chain, seed: int, out: Path) -> Path:
    """Where a chain is kept."""
    kind = f"{chain.net}-taught" if chain.taught else chain.net
    return out / chain.regime.replace(" ", "-") / f"{kind}-{chain.loss}-seed{seed}"


def run(chain: Chain, seed: int, root: str, out: Path) -> dict[str, object]:
    """The record of a chain; what is there already is not trained again."""
    folder = folder_of(chain, seed, out)
    if not (folder / "results.json").exists():
        own = {"count": chain.count, "seed": seed, "loss": chain.loss, "out": folder, "config": CONFIG}
        if chain.taught:
            own["teacher"] = folder_of(Chain(chain.regime, "dense"), seed, out) / "generation-0/model"
        words = [word for name, value in own.items() for word in (f"--{name}", str(value))]
        options = ["--data.root", root, *NETS[chain.net], *REGIMES[chain.regime]]
        options += INHERITED if chain.taught and chain.net == "residual" else ()
        subprocess.run([sys.executable, "-m", "autosample", "generations", *words, *options], check=True)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for row in rows:
        row["trained"] = last_training_accuracy(folder / row["net"].replace(" ", "-"))
    return {**asdict(chain), "seed": seed, "rows": rows}


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
