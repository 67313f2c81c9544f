"""Born-again networks: each generation learns from the one before (Furlanello et al. 2018)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from autosample.artifact.loading import load_any
from autosample.artifact.saving import save
from autosample.errors import ConfigError
from autosample.models import Ensemble
from autosample.system.files import whole, write_json

# arguments of `Classifier` in which generations differ
_OWN = ("teacher", "distill", "seed")
# Trains with more options of `fit`, and gives the data.
Fit = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Generations:
    """The folder of a chain of generations.

    `generation-K/model` is a saved model, `generation-K/test.safetensors` holds its probabilities on the test data.

    Attributes:
        out: The folder.
        count: Number of generations that learn from another one.
        loss: The loss of `Classifier.distill` for these.
        teacher: A model that the first one learns from; without it, generation 0 learns from the labels alone.
        seed: Seed of generation 0; each generation has its own, one higher than that before.
    """

    out: Path
    count: int
    loss: str = "ban"
    teacher: str | None = None
    seed: int = 0

    @property
    def first(self) -> int:
        """Number of the first generation that is trained."""
        return 1 if self.teacher else 0

    def folder(self, number: int) -> Path:
        """The folder of a generation."""
        return self.out / f"generation-{number}"

    def words(self, number: int) -> list[str]:
        """The options of `fit` for a generation; a training that was stopped goes on."""
        folder = self.folder(number)
        words = [f"--trainer.default_root_dir={folder}", f"--seed_everything={self.seed + number}"]
        if number:
            teacher = self.teacher if number == self.first else self.folder(number - 1) / "model"
            words += [f"--model.teacher={teacher}", f"--model.distill={self.loss}"]
        found = sorted(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
        return [*words, f"--ckpt_path={found[-1]}"] if found else words

    def train(self, fit: Fit) -> None:
        """Train the generations that are missing, one after the other.

        Raises:
            ConfigError: Generations differ in their data or net, or a training runs in several processes or left no
                checkpoint.
        """
        for number in range(self.first, self.count + 1):
            folder = self.folder(number)
            if (folder / "test.safetensors").is_file():
                continue
            self._check_alike()
            print(f"generation {number}")
            data = fit(self.words(number))
            found = sorted(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
            if not found:
                raise ConfigError(
                    "generations need the checkpoint of each training, got none: leave trainer.enable_checkpointing on"
                )
            model, config = load_any(found[-1])
            save(model, folder / "model", config=config)
            with whole(folder / "test.safetensors") as path:
                save_file(_answers(model, data), path)
        self._check_alike()

    def _check_alike(self) -> None:
        """Finished generations are kept, so a command or a config that has changed would mix two kinds of trainings."""
        seen: dict[str, str] = {}
        for path in sorted(self.out.glob("generation-*/**/config.yaml")):
            config = yaml.safe_load(path.read_text())
            given = config["model"].items()
            model = {name: value for name, value in given if name not in _OWN and value is not None}
            kept = json.dumps([config["data"], model], sort_keys=True, default=str)
            seen.setdefault(kept, str(path))
        if len(seen) > 1:
            first, other = list(seen.values())[:2]
            raise ConfigError(
                f"generations of a chain have the same data and net, got others in {other} than in {first}: use one "
                "command for all, and another --out"
            )

    def results(self) -> list[dict[str, Any]]:
        """One row per generation and per ensemble of the first generations that learned from another one.

        Also writes `results.json`, and the ensemble of all of them to `ensemble`.
        """
        rows, sums, members, stored = [], torch.zeros(()), [], 0
        for number in range(self.first, self.count + 1):
            model, config = load_any(self.folder(number) / "model")
            answers = load_file(self.folder(number) / "test.safetensors")
            right = _accuracy(answers["probabilities"], answers["labels"])
            rows.append({"net": f"generation {number}", "stored_bytes": config.stored_bytes, "accuracy": right})
            if number:
                sums, stored = sums + answers["probabilities"].double(), stored + (config.stored_bytes or 0)
                members.append(model)
            if len(members) > 1:
                right = _accuracy(sums, answers["labels"])
                rows.append({"net": f"ensemble of {len(members)}", "stored_bytes": stored, "accuracy": right})
        if len(members) > 1:
            about = {"preprocessing": config.preprocessing, "class_names": config.class_names}
            save(Ensemble(members).eval(), self.out / "ensemble", **about)
        write_json(self.out / "results.json", {"loss": self.loss, "teacher": self.teacher, "rows": rows})
        return rows


@torch.no_grad()
def _answers(model: torch.nn.Module, data: Any) -> dict[str, Tensor]:
    """The model's probabilities and the labels of all test examples."""
    parts = [(model(x.float()).softmax(-1), y) for x, y in data.test_dataloader()]
    scores, labels = zip(*parts, strict=True)
    return {"probabilities": torch.cat(scores).float(), "labels": torch.cat(labels)}


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of the labels that have the highest score [%]."""
    return 100 * float((scores.argmax(-1) == labels).double().mean())
