"""Born-again networks from the command line."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import autosample as package
from autosample import load
from autosample.data import Digits

NET = ("--config=experiment/digits", "--model.model=digitnet", "--model.spec=folded")
SHORT = (
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
)


def rows(out):
    return {row["net"]: row for row in json.loads((out / "results.json").read_text())["rows"]}


def accuracy(folder) -> float:
    data = Digits(**yaml.safe_load(CONFIG.read_text())["data"]["init_args"])
    data.prepare_data()
    data.setup("test")
    model = load(folder)
    with torch.no_grad():
        found = [(model(x).argmax(-1) == y).double() for x, y in data.test_dataloader()]
    return 100 * float(torch.cat(found).mean())


CONFIG = Path(package.__file__).parent / "configs/experiment/digits.yaml"


def test_each_generation_learns_from_the_one_before(autosample, tmp_path):
    out = tmp_path / "out"
    words = ("generations", "--count=2", f"--out={out}", "--loss=ban+l", *NET, *SHORT)
    code, said, error = autosample(*words)
    assert (code, error) == (0, "")
    found = rows(out)
    assert list(found) == ["generation 0", "generation 1", "generation 2", "ensemble of 2"]
    for net, folder in (("generation 2", "generation-2/model"), ("ensemble of 2", "ensemble")):
        assert found[net]["accuracy"] == pytest.approx(accuracy(out / folder))
        assert f"{found[net]['accuracy']:.2f}" in said
    settings = [yaml.safe_load(next((out / f"generation-{k}").rglob("config.yaml")).read_text()) for k in (0, 1, 2)]
    assert [s["model"]["teacher"] for s in settings] == [
        None, f"{out}/generation-0/model", f"{out}/generation-1/model"
    ]  # fmt: skip
    assert [s["model"]["distill"] for s in settings] == [0.0, "ban+l", "ban+l"]
    assert [s["seed_everything"] for s in settings] == [0, 1, 2]
    first, ensemble = (
        json.loads((out / name / "config.json").read_text()) for name in ("generation-1/model", "ensemble")
    )
    for name in ("preprocessing", "class_names"):  # so `predict` reads files as in training
        assert ensemble[name] == first[name]
    # what is there is kept; what was stopped goes on from its last checkpoint
    older = next((out / "generation-0").rglob("config.yaml"))  # of a version with fewer options
    written = yaml.safe_load(older.read_text())
    written["model"] = {name: value for name, value in written["model"].items() if value is not None}
    older.write_text(yaml.safe_dump(written))
    before = {path: path.stat().st_mtime for path in out.rglob("generation-1/**/*")}
    (out / "generation-2/test.safetensors").unlink()
    again = autosample(*words)
    assert again.code == 0
    assert "generation 1\n" not in again.out
    assert {path: path.stat().st_mtime for path in out.rglob("generation-1/**/*")} == before
    assert rows(out) == found
    # but not with others
    code, _, error = autosample(*words[:1], "--count=3", *words[2:], "--model.lr=0.5")
    assert code == 2
    assert "generations of a chain have the same data and net, got others in" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--count=0",), "count must be at least 1, got 0"),
        (("--model.teacher=x",), "generations sets model.teacher itself"),
        (("--loss=bam",), 'got "bam": did you mean "ban"'),
        (("--teacher=nowhere",), "nowhere"),
        (("--model.lrr=1",), "lrr"),
    ],
)
def test_mistakes(autosample, tmp_path, options, said):
    code, _, error = autosample("generations", f"--out={tmp_path}", *NET, *SHORT, *options)
    assert code == 2
    assert error.count("\n") == 1
    assert said in error
