"""`bench input`: what it counts, what it compares with, and its mistakes."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from autosample.data.sets.digits import Digits
from autosample.data.sets.timm_images import TimmImages
from autosample.data.sharding import write_shards
from autosample.experiments.bench import loading
from autosample.system.timing import Timing

# timm's readers leave files to chance
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

# nothing is drawn: a square picture is resized
STILL = {"scale": (1, 1), "ratio": (1, 1), "hflip": 0, "color_jitter": 0, "train_interpolation": "bilinear"}


@pytest.fixture
def root(tmp_path):
    """Two classes with ten square pictures for training."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 1)):
        for name in ("a", "b"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{i:02d}.png")
    return tmp_path / "set"


def made(root, **options):
    return TimmImages(str(root), image_size=16, batch_size=4, num_workers=0, **{**STILL, **options})


@pytest.mark.parametrize("kind", ["", "wds"])
def test_all_sides_read_the_same_files_and_give_the_same_pictures(root, monkeypatch, kind):
    write_shards(root, root, size=7)
    seen = {}

    def watched(loader, device, count, use=None):
        batches = list(loader)
        x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
        order = x.flatten(1).double().sum(1).argsort()
        seen[len(seen)] = (x[order], y[order])

    monkeypatch.setattr(loading, "_pass", watched)
    monkeypatch.setattr(
        loading, "time_in_turn", lambda calls, **_: [call() or Timing(1.0, 1.0, 1.0, 3, (1.0,) * 3) for call in calls]
    )
    sides, facts = loading.measure_input(made(root, name=kind), batches=3)
    assert [side.side for side in sides] == ["autosample", "torchvision", "timm", "timm prefetch"]
    assert facts == {"examples": 12, "batch_size": 4, "num_workers": 0, "threads": 1, "note": ""}
    x, y = seen[0]
    assert y.bincount().tolist() == [6, 6]
    for pictures, labels in (seen[1], seen[2]):
        assert torch.equal(pictures, x)
        assert torch.equal(labels, y)
    torch.testing.assert_close(seen[3][0], x, rtol=1e-4, atol=1e-4)  # normalised on the device
    assert torch.equal(seen[3][1], y)


def test_speeds_are_examples_a_second_with_quartiles(root, monkeypatch):
    times = [Timing(2.0, 1.0, 4.0, 3, (2.0, 1.0, 4.0)), *[Timing(4.0, 3.0, 6.0, 3, (4.0, 3.0, 6.0))] * 3]
    monkeypatch.setattr(loading, "time_in_turn", lambda calls, **_: times)
    (own, torchvision, *_), _ = loading.measure_input(made(root), batches=2)
    assert (own.median, own.low, own.high, own.speed_up) == (4.0, 2.0, 8.0, None)
    assert (torchvision.median, torchvision.low, torchvision.high) == (2.0, 8 / 6, 8 / 3)
    assert torchvision.speed_up.median == 2.0  # of 4/2, 3/1 and 6/4


def test_what_cannot_be_compared_is_measured_alone(root):
    sides, facts = loading.measure_input(Digits(batch_size=16), batches=2, rounds=3)
    assert [side.side for side in sides] == ["autosample"]
    assert facts["examples"] == 32
    assert facts["note"] == "torchvision and timm are measured with TimmImages only"
    write_shards(root, root / "shards")
    assert (
        "set's folders are beside it" in loading.measure_input(made(root / "shards", name="wds"), rounds=3)[1]["note"]
    )


def test_the_verb_writes_a_record(autosample, root, tmp_path):
    words = ["--config", "experiment/imagenet_resnet50", "--data.root", root, "--data.image_size=16"]
    words += ["--data.batch_size=4", "--data.num_workers", "0", "--batches=2", "--rounds", 3]
    code, out, err = autosample("bench", "input", *words, "--out", tmp_path)
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "input-TimmImages.json").read_text())
    assert record["suite"] == "input"
    assert (record["examples"], record["batch_size"], record["num_workers"]) == (8, 4, 0)
    assert record["command"].startswith("autosample bench input --config experiment/imagenet_resnet50 --data.root ")
    assert [row["side"] for row in record["rows"]] == ["autosample", "torchvision", "timm", "timm prefetch"]
    for row in record["rows"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["rounds"] == 3
    assert re.search(r"torchvision +│ +[\d,]+ │ +[\d,]+-[\d,]+ │ +\d+\.\d\dx \(", out)


@pytest.mark.slow
def test_steps_train_both_nets_on_what_is_read(autosample, root, tmp_path, monkeypatch):
    config = tmp_path / "net.yaml"
    config.write_text("model: {model: test_resnet, num_classes: 2, spec: folded, ratio: 4}")
    words = ["--config=experiment/imagenet_resnet50", "--config", config, "--data.root", root, "--data.image_size=32"]
    words += ["--data.batch_size=4", "--data.num_workers", "0", "--batches=2", "--rounds=3", "--step"]
    made, real = [], loading._step

    def watched(net, device, dtype):
        step, before = real(net, device, dtype), {n: p.detach().clone() for n, p in net.named_parameters()}
        made.append((net, before, dtype, []))

        def counted(x, y):
            made[-1][3].append(len(x))
            step(x, y)

        return counted

    monkeypatch.setattr(loading, "_step", watched)
    code, out, err = autosample("bench", "input", *words, "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "folded is faster" in out
    record = json.loads((tmp_path / "step-TimmImages.json").read_text())
    assert (record["suite"], record["note"]) == ("step", "test_resnet, steps of SGD, torch.float32")
    folded, dense = record["rows"]
    assert (folded["side"], folded["speed_up"], dense["side"]) == ("folded", None, "dense")
    assert 0 < dense["speed_up"]["low"] <= dense["speed_up"]["median"]
    sizes = [sum(p.numel() for p in net.parameters()) for net, *_ in made]
    assert sizes[0] < sizes[1] / 2
    for net, before, dtype, _ in made:
        assert dtype == torch.float32
        assert any(not torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert made[1][3] == [4] * 2 * 2 * 5  # two nets, two batches, and two rounds before the three


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "bench input needs a data set, got none: pass --config CONFIG, or --data CLASS"),
        (("--config", "experiment/imagenet_resnet5"), 'did you mean "experiment/imagenet_resnet50"'),
        (("--config=experiment/imagenet_resnet50", "--data.rot=x"), 'TimmImages has no option "rot"'),
        (("--data", "TimImages"), 'data must name a class, got "TimImages"'),
        (("--data=TimmImages", "--data.root={root}", "--data.batch_size=64"), "needs a whole batch of 64, got 20 ex"),
        (("--data=TimmImages", "--data.root=nowhere"), "train/CLASS/* and val/CLASS/* was expected, found no folder"),
        (("--data=Digits", "--batches=0"), "batches must be at least 1, got 0"),
        (("--data=Digits", "--rounds=x"), "rounds must be a whole number, got x"),
        (("--data=Digits", "--step", "--dtype=int8"), "dtype must be one of float32, bfloat16, got int8"),
        (("--config=experiment/digits", "--config=spec/dense", "--step"), "got spec dense: pass --config spec/folded"),
        (("--data=Digits", "--step"), "a recipe must name a model, got none"),
        (("--data=Digits", "--device=tpu"), "device must be cpu or cuda, got tpu"),
        (("--data=Digits", "--batch=3"), 'no option is called "batch": did you mean "batches"'),
    ],
)
def test_mistakes(autosample, root, tmp_path, words, said):
    code, out, err = autosample("bench", "input", *(w.format(root=root) for w in words), "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "out").exists()
