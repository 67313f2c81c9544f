"""What is logged of every learned rule: its speed, its distance from the start, and the accuracy around the freeze."""

import csv
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from autosample.nn import compressed_layers
from autosample.training import OffsetLog

MOVING = {"assignment": "learned", "every": 2, "moves": 0.5}
#: name: spec, options, unit, and what is followed, from the definition of the rule
FOLLOWED = {
    "blocks": ("folded", MOVING, "changes", lambda rule: rule.followed()),
    "signs": ("folded", {"signs": "learned", "rate": 0.6}, "changes", lambda rule: rule.signs.leaning >= 0),
    "signs and shares": (
        "folded", {"signs": "learned", "mixing": "two", "rate": 0.6}, "changes", lambda rule: rule.signs.leaning >= 0
    ),
    "shares": ("folded", {"mixing": "two"}, "shares", lambda rule: rule.signs.share),
    "conditioned": (
        "conditioned", {}, "numbers",
        lambda rule: torch.cat([rule.mixture.reader.flatten(), rule.mixture.chooser.flatten()]),
    ),
}  # fmt: skip
EVERY = [(name, *one) for name, one in FOLLOWED.items()]


class Copy(pl.Callback):
    """What is followed, after each step."""

    def __init__(self, followed) -> None:
        self.followed, self.seen = followed, []

    def on_train_start(self, trainer, module) -> None:
        self.on_train_batch_end(trainer, module)

    def on_train_batch_end(self, trainer, module, *_) -> None:
        rules = [layer.offsets for layer in compressed_layers(module).values()]
        self.seen.append([self.followed(rule).detach().clone() for rule in rules])


def fitted(classifier, digits, trainer, tmp_path, spec, options, *callbacks):
    """The rows of `offsets.csv` and of `metrics.csv` after an epoch of eight steps."""
    freeze = {"freeze_at": 0.5} if "learned" in options.values() else {}
    torch.manual_seed(0)
    model = classifier(spec=spec, spec_args={"share": "even", "options": {**options, **freeze}}, scheduler="none")
    steps = {"max_epochs": 1, "limit_train_batches": 8, "limit_val_batches": 1.0, "logger": CSVLogger(tmp_path)}
    trainer(**steps, callbacks=[*callbacks, OffsetLog()]).fit(model, datamodule=digits())
    found = []
    for name in ("offsets", "metrics"):
        with next(tmp_path.rglob(f"{name}.csv")).open(newline="") as file:
            found.append(list(csv.DictReader(file)))
    return model, *found


@pytest.mark.parametrize(("name", "spec", "options", "unit", "followed"), EVERY, ids=FOLLOWED)
@pytest.mark.every(2)
def test_speed_and_distance_of_every_rule(classifier, digits, trainer, tmp_path, name, spec, options, unit, followed):
    copy = Copy(followed)
    model, rows, _ = fitted(classifier, digits, trainer, tmp_path, spec, options, copy)
    assert [row["layer"] for row in rows] == list(compressed_layers(model))
    assert {row["unit"] for row in rows} == {unit}
    assert {row["frozen"] for row in rows} == {str(unit == "changes")}
    learned = copy.seen[:5] if unit == "changes" else copy.seen  # they are frozen before the fifth step

    def distance(a, b):
        return (a != b).float() if unit == "changes" else (a - b).abs()

    for i, row in enumerate(rows):
        path = sum(float(distance(a[i], b[i]).mean()) for a, b in pairwise(learned))
        assert float(row["speed"]) == pytest.approx(path / 8, rel=1e-4)
        assert float(row["mean"]) == pytest.approx(float(distance(learned[0][i], learned[-1][i]).mean()), rel=1e-4)
    assert max(float(row["speed"]) for row in rows) > 0


@pytest.mark.parametrize("kind", ["blocks", "signs"])
@pytest.mark.every(2)
def test_the_accuracy_around_the_freeze_of_selections(classifier, digits, trainer, tmp_path, kind):
    """Signs and blocks are what they are before: only the numbers train on."""

    class Score(pl.Callback):
        def __init__(self):
            self.found = []

        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step in (4, 8):
                module.eval()
                batches = list(trainer.datamodule.val_dataloader())
                with torch.no_grad():
                    right = sum(int((module(x).argmax(1) == y).sum()) for x, y in batches)
                module.train()
                self.found.append(right / sum(len(y) for _, y in batches))

    score = Score()
    _, _, metrics = fitted(classifier, digits, trainer, tmp_path, *FOLLOWED[kind][:2], score)
    logged = [[float(row[f"val/acc_{at}_freeze"]) for row in metrics if row[f"val/acc_{at}_freeze"]]
              for at in ("before", "after")]  # fmt: skip
    assert logged == [[pytest.approx(score.found[0])], [pytest.approx(score.found[1])]]


def test_diverging_offsets_are_told_once(classifier, digits, trainer, tmp_path):
    options = {"unit": "positions", "rate": 30.0, "freeze_at": 1.0}
    model = classifier(spec="dfsnet", spec_args={"options": options}, scheduler="none")
    with pytest.warns(UserWarning, match="learned offsets") as found:
        trainer(max_epochs=3, callbacks=[OffsetLog()], logger=CSVLogger(tmp_path)).fit(model, datamodule=digits())
    told = [str(warning.message) for warning in found]
    assert sum("learned offsets diverge in epoch 0" in text for text in told) == 1
    assert sum("learned offsets should move by at most a row" in text for text in told) == 1
