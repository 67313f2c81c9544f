"""Sets like ImageNet: pixels are those of timm, whatever reads the set, and on every rank and worker."""

import sys
import types
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, create_transform, resolve_data_config
from timm.data.distributed_sampler import RepeatAugSampler
from timm_sets import NAMES, draw, joined, made, pack

from autosample.data.image_files import open_image
from autosample.data.pictures import PictureBatches
from autosample.data.resident import BatchPlan
from autosample.data.workers import own_chance
from autosample.errors import DataError, MissingExtra


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm's reader leaves this to chance
@pytest.mark.parametrize("net", ["resnet50.a1_in1k", "vit_small_patch16_224.augreg_in1k"])
@pytest.mark.parametrize("use_test_size", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_picture_in_validation_is_that_of_timms_own_validation(root, net, use_test_size):
    turned = Image.Exif()
    turned[0x0112] = 6
    draw(root / "validation" / "n2" / "turned.jpg", 1, (400, 300), exif=turned)
    draw(root / "validation" / "n10" / "grey.jpeg", 2, (300, 400), "L")
    draw(root / "validation" / "n10" / "ink.jpg", 3, (250, 260), "CMYK")
    draw(root / "validation" / "n30" / "few.png", 4, (260, 250), "P")
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(net).to_dict(), use_test_size=use_test_size)
    dataset = create_dataset("", str(root), split="validation")
    loader = create_loader(
        dataset, batch_size=4, use_prefetcher=False, num_workers=0, device=torch.device("cpu"), **config
    )
    expected, labels = joined(loader)
    options = {key: config[key] for key in ("interpolation", "mean", "std", "crop_pct", "crop_mode")}
    data = made(root, image_size=config["input_size"][1], **options)
    assert data.class_names == tuple(dataset.reader.class_to_idx) == NAMES
    for part in (data.val_dataloader(), data.test_dataloader()):
        x, y = joined(part)
        order = {name: i for i, name in enumerate(dataset.filenames(absolute=True))}
        rows = [order[path.decode()] for path in data._parts.val.paths]
        assert torch.equal(x, expected[rows])
        assert torch.equal(y, labels[rows])


def test_what_a_saved_model_is_told_makes_the_same_picture(root):
    from autosample.data.inputs import read_input

    data = made(root, crop_pct=0.9, crop_mode="border", mean=(0.5, 0.5, 0.5), interpolation="bilinear")
    x, _ = next(iter(data.val_dataloader()))
    assert torch.equal(read_input(root / "validation" / "n2" / "0.jpg", data.preprocessing), x[0])


def test_a_worker_makes_batches_in_shared_memory(root, monkeypatch):
    """Batches on its heap would leave holes there, so that its memory grew over an epoch."""
    data = made(root)
    batches = data.train_dataloader().dataset
    assert not batches[0][0].is_shared()
    alone = batches[0]
    monkeypatch.setattr("torch.utils.data._utils.worker._worker_info", "a worker")
    x, y = batches[0]
    assert x.is_shared()
    assert torch.equal(x, alone[0])
    assert torch.equal(y, alone[1])


def test_training_pictures_are_augmented_by_timm_with_the_options(root):
    options = {"scale": (0.3, 0.9), "ratio": (0.5, 2.0), "hflip": 0.4, "re_prob": 0.9, "re_mode": "rand"}
    data = made(root, aa="rand-m9-mstd0.5-inc1", train_interpolation="bicubic", seed=3, **options)
    transform = create_transform(
        16, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", **options
    )
    data.epoch = 2
    x, y = joined(data.train_dataloader())
    rows = BatchPlan(12, 4, True, seed=3).order(2).tolist()
    for picture, label, row in zip(x, y, rows, strict=True):
        with own_chance() as seed:
            seed(3, 2, row)
            expected = transform(open_image(root / "train" / NAMES[row // 4] / f"{row % 4}.jpg"))
        assert int(label) == row // 4
        assert torch.equal(picture, expected)
    other = joined(made(root, aa="rand-m9-mstd0.5-inc1", seed=3, color_jitter=0.0).train_dataloader())[0]
    assert not torch.equal(other, x)


def test_ranks_do_not_matter(root):
    data = made(root, aa="rand-m9", re_prob=0.5)
    transform, train = data._train_transform(), data.examples.train
    x, y = joined(data.train_dataloader())
    for world in (2, 5):
        order, seen = BatchPlan(12, 4, True).order(0), {}
        for rank in range(world):
            plan = BatchPlan(12, 4, True, rank=rank, world_size=world)
            batches = PictureBatches(data.examples.x, transform, plan, train)
            pictures, labels = joined(batches[number] for number in range(len(plan)))
            seen |= dict(zip(plan.order(0).tolist(), zip(pictures, labels, strict=True), strict=True))
        assert torch.equal(torch.stack([seen[row][0] for row in order.tolist()]), x)
        assert torch.equal(torch.stack([seen[row][1] for row in order.tolist()]), y)


@pytest.mark.slow
def test_workers_and_a_break_do_not_matter(root):
    data = made(root, aa="rand-m9", re_prob=0.5)
    x, y = joined(data.train_dataloader())
    loader = made(root, aa="rand-m9", re_prob=0.5, num_workers=2).train_dataloader()
    again, labels = joined(loader)
    assert torch.equal(again, x)
    assert torch.equal(labels, y)
    loader.load_state_dict({"epoch": 0, "batch": 2})
    assert torch.equal(joined(loader)[0], x[8:])


def test_repeated_pictures_come_as_in_timms_sampler():
    for world, size in ((1, 12), (3, 12), (2, 24)):
        for rank in range(world):
            plan = BatchPlan(size, 2, rank=rank, world_size=world, repeats=3)
            sampler = RepeatAugSampler(
                range(size), num_replicas=world, rank=rank, shuffle=False, num_repeats=3, selected_round=0
            )
            assert (plan.order(0) % size).tolist() == list(sampler)
            assert len(plan) == size // world // 2
    orders = torch.stack([BatchPlan(12, 4, True, rank=rank, world_size=3, repeats=3).order(1) for rank in range(3)])
    assert (orders % 12).unique(dim=0).shape[0] == 1  # each rank has a copy of its own
    assert sorted((orders // 12).flatten().tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    with pytest.raises(DataError, match="repeats must be at least 1, got 0"):
        BatchPlan(12, 4, repeats=0)


def test_copies_of_a_picture_are_augmented_anew(root):
    x, y = joined(made(root, num_aug_repeats=3).train_dataloader())
    assert x.shape == (12, 3, 16, 16)
    for start in range(0, 12, 3):
        assert len(y[start : start + 3].unique()) == 1
        assert len(x[start : start + 3].unique(dim=0)) == 3
    for once in (0, 1):
        a, b = (joined(made(root, num_aug_repeats=n).train_dataloader())[0] for n in (once, 0))
        assert torch.equal(a, b)
    assert len(joined(made(root, num_aug_repeats=3).val_dataloader())[1]) == 6


def test_held_out_pictures_are_for_validation(root):
    data = made(root, val_fraction=0.25)
    assert data.sizes == {"train": 9, "val": 3, "test": 6}
    assert made(root).sizes == {"train": 12, "val": 6, "test": 6}
    assert set(data.examples.train.tolist()) | set(data.examples.val.tolist()) == set(range(12))


@pytest.mark.parametrize("inner", [False, True])
def test_tar_files_hold_the_same_set_as_folders(root, inner):
    expected = made(root)
    for part, name in (("train", "train"), ("validation", "val")):
        pack(root / part, root / f"{name}.tar", inner)
    data = made(root, name="tar")
    assert data.class_names == NAMES
    for loader in ("train_dataloader", "val_dataloader"):
        # whatever the order of pictures, each has its label; the loaders of both augment by number
        mine, theirs = (joined(getattr(one, loader)()) for one in (data, expected))
        assert Counter(mine[1].tolist()) == Counter(theirs[1].tolist())
    x, y = joined(data.val_dataloader())
    want, labels = joined(expected.val_dataloader())
    assert {(a.numpy().tobytes(), int(b)) for a, b in zip(x, y, strict=True)} == {
        (a.numpy().tobytes(), int(b)) for a, b in zip(want, labels, strict=True)
    }
    assert not [path for path in root.iterdir() if "pickle" in path.name]


class FakeSet:
    """What timm's reader asks of a set of Hugging Face."""

    def __init__(self, folder):
        self.rows = [
            {"image": {"bytes": path.read_bytes(), "path": path.name}, "label": NAMES.index(path.parent.name)}
            for path in sorted(folder.glob("*/*"), key=lambda path: (path.name, path.parent.name))
        ]
        feature = types.SimpleNamespace(names=list(NAMES), str2int=NAMES.index)
        self.info = types.SimpleNamespace(features={"label": feature}, splits=None)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def cast_column(self, *_):
        return self

    remove_columns = cast_column


@pytest.fixture
def hugging_face(monkeypatch, root):
    """A package of that name which knows the set `me/three`."""

    def load_dataset(name, split, cache_dir, **_):
        if name != "me/three":
            raise ConnectionError(f"no set {name}")
        return FakeSet(Path(cache_dir) / split)

    package = types.ModuleType("datasets")
    package.__spec__ = types.SimpleNamespace(name="datasets")
    package.load_dataset, package.Image, package.ClassLabel = load_dataset, lambda decode: None, types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    yield root
    sys.modules.pop("timm.data.readers.reader_hfds", None)


def test_a_set_of_hugging_face(hugging_face):
    data = made(hugging_face, name="hfds/me/three")
    assert data.class_names == NAMES
    x, y = joined(data.val_dataloader())
    assert y.tolist() == [1, 0, 2, 1, 0, 2]  # by the names of files
    want = joined(made(hugging_face).val_dataloader())[0]
    assert torch.equal(x[[1, 4, 0, 3, 2, 5]], want)
    with pytest.raises(DataError, match=r"hfds/me/four must have labelled pictures .*no set me/four: check the name"):
        made(hugging_face, name="hfds/me/four").setup()


def test_the_package_of_hugging_face_is_named(root, monkeypatch):
    monkeypatch.setattr("autosample.data.timm_readers.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install datasets"):
        made(root, name="hfds/imagenet-1k").setup()
