"""The recipes for ImageNet, on a set of its layout that is drawn here, cut down by flags alone."""

import csv

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from autosample.training import Classifier

NAMES = ("n01", "n02", "n03", "n04")


@pytest.fixture
def root(tmp_path):
    """Four classes, each of a hue and with 64×64 JPEGs: five for training and three for validation."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 3)):
        for label, name in enumerate(NAMES):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (64, 64, 3))
                pixels[..., label % 3] += 120 if label < 3 else 0
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.JPEG")
    return tmp_path / "set"


def test_a_spec_is_one_more_word(autosample, root):
    code, out, err = autosample(
        "fit",
        "--config",
        "experiment/imagenet_resnet50",
        "--config",
        "spec/folded",
        "--data.root",
        root,
        "--print_config",
    )
    assert (code, err) == (0, "")
    printed = yaml.safe_load(out)
    assert printed["model"]["spec"] == "folded"
    assert printed["data"]["init_args"]["root"] == str(root)
    assert [one["class_path"] for one in printed["trainer"]["callbacks"]] == [
        "pytorch_lightning.callbacks.EMAWeightAveraging"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_damaged_pictures_are_named_on_the_command_line(autosample, root, tmp_path):
    for path in (root / "train" / "n02" / "3.JPEG", root / "val" / "n01" / "0.JPEG"):
        path.write_bytes(path.read_bytes()[:99])
    words = ["fit", "--config=experiment/imagenet_resnet50", f"--data.root={root}", "--data.image_size=32"]
    words += ["--data.batch_size=4", "--data.num_workers=0", "--model.model=test_resnet", "--model.num_classes=4"]
    words += ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    words += [f"--trainer.default_root_dir={tmp_path / 'runs'}", "--data.num_aug_repeats=0"]
    code, _, err = autosample(*words)
    assert code == 2
    assert err.count("\n") == 1
    assert "0.JPEG: not a readable image" in err
    with pytest.warns(UserWarning, match=r"epoch \d that could not be read: 1;") as told:
        code, _, err = autosample(*words, "--data.on_bad=skip")
    assert (code, err) == (0, "")
    named = [str(one.message).rpartition("/")[2] for one in told if "could not be read" in str(one.message)]
    named = [name.partition(":")[0] for name in named]
    assert set(named) == {"0.JPEG", "3.JPEG"}
    assert named.count("3.JPEG") == 1  # validation has several passes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "net", "options"),
    [
        ("resnet50", "test_resnet", ()),
        ("convnext_tiny", "test_convnext", ("--config=spec/folded",)),
        ("vit_small", "test_vit", ("--model.model_args.img_size=32",)),
        ("mobilenetv2", "test_efficientnet", ()),
    ],
)
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_recipe_trains_tests_and_saves(autosample, recipe, net, options, root, tmp_path):
    words = ["fit", "--config", f"experiment/imagenet_{recipe}", *options, f"--data.root={root}"]
    words += ["--data.image_size=32", "--data.batch_size=4", "--data.num_workers=0"]
    words += [f"--model.model={net}", "--model.num_classes=4", "--trainer.accelerator=cpu", "--trainer.max_epochs=2"]
    words += ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    code, out, err = autosample(*words)
    assert code == 0, err
    assert "times smaller than dense" in out
    folder = next((tmp_path / "runs").rglob("config.yaml")).parent
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)
    (accuracy,) = [float(row["test/acc"]) for row in rows if row["test/acc"]]
    assert round(12 * accuracy, 4) in range(13)  # of the 12 pictures in val

    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["autosample"]["class_names"] == list(NAMES)
    assert saved["autosample"]["preprocessing"]["input_size"] == [3, 32, 32]
    # 20 pictures in batches of 4, with a short rest of steps at the end of each epoch
    assert saved["global_step"] == (4 if recipe == "convnext_tiny" else 10)
    # what is saved is the average, and the net beside it goes on
    average, last = saved["state_dict"], saved["current_model_state"]
    assert any(not torch.equal(average[name], last[name]) for name in average if average[name].is_floating_point())
    Classifier.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_shards_train_to_the_same_numbers_as_the_folder(autosample, root, tmp_path):
    assert autosample("shard", root, tmp_path / "shards", "--size=6").code == 0
    ends = []
    for place, options in ((root, ()), (tmp_path / "shards", ("--data.name=wds", "--data.num_workers=1"))):
        words = ["fit", "--config=experiment/imagenet_resnet50", f"--data.root={place}", "--data.image_size=32"]
        words += ["--data.batch_size=4", "--data.num_workers=0", *options]
        words += ["--model.model=test_resnet", "--model.num_classes=4", "--trainer.accelerator=cpu"]
        words += ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.precision=32-true"]
        folder = tmp_path / f"runs{len(ends)}"
        code, _, err = autosample(*words, f"--trainer.default_root_dir={folder}")
        assert code == 0, err
        ends.append(torch.load(next(folder.rglob("last.ckpt")), weights_only=True))
    first, second = ends
    assert second["autosample"]["class_names"] == list(NAMES)
    for name, tensor in first["current_model_state"].items():
        assert torch.equal(tensor, second["current_model_state"][name]), name


EMA, LEVELS = "pytorch_lightning.callbacks.EMAWeightAveraging", "autosample.training.FakeQuantize"


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        (("experiment/imagenet_resnet50", "quantize/int8"), [EMA, LEVELS]),
        (("quantize/int8", "experiment/imagenet_resnet50"), [LEVELS, EMA]),
        (("experiment/digits", "quantize/codebook4"), [LEVELS]),
    ],
)
def test_callbacks_of_several_configs_are_joined(autosample, configs, expected):
    code, out, err = autosample("fit", *(f"--config={name}" for name in configs), "--print_config")
    assert (code, err) == (0, "")
    callbacks = yaml.safe_load(out)["trainer"]["callbacks"]
    assert [one["class_path"] for one in callbacks] == expected
    bits = {one["init_args"].get("bits") for one in callbacks if one["class_path"] == LEVELS}
    assert bits == {8 if "quantize/int8" in configs else 4}


def test_a_recipe_and_an_overlay_with_its_own_config_go_on(autosample, tmp_path):
    """The complete config of a run names the callbacks of both; an overlay that says the same again changes nothing."""
    code, out, _ = autosample("fit", "--config=experiment/digits", "--config=quantize/int8", "--print_config")
    path = tmp_path / "config.yaml"
    path.write_text(out)
    code, out, err = autosample("fit", f"--config={path}", "--print_config")
    assert (code, err) == (0, "")
    assert [one["class_path"] for one in yaml.safe_load(out)["trainer"]["callbacks"]] == [LEVELS]
    quick = ("--model.model=digitnet", "--trainer.accelerator=cpu", "--trainer.fast_dev_run=1")
    same = autosample("fit", f"--config={path}", "--config=quantize/int8", *quick)
    assert (same.code, same.err) == (0, "")
    other = autosample("fit", f"--config={path}", "--config=quantize/codebook4", *quick)
    assert other.code == 2
    assert "levels of one kind, got FakeQuantize with 8 bits linear and 4 bits codebook" in other.err
    twice = autosample(
        *("fit", "--config=experiment/digits", "--trainer.callbacks+=EMAWeightAveraging"),
        *("--trainer.callbacks+=EMAWeightAveraging", *quick),
    )
    assert twice.code == 2
    assert twice.err.count("\n") == 1
    assert "more than one stateful callback of type `EMAWeightAveraging`" in twice.err
