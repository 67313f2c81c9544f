"""Sets like ImageNet: pixels are timm's, whatever reads them; what is missing or damaged is named or counted."""

import sys
import tarfile
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, create_transform, resolve_data_config
from timm.data.distributed_sampler import RepeatAugSampler

from autosample.data.image_files import open_image
from autosample.data.pictures import PictureBatches
from autosample.data.resident import BatchPlan
from autosample.data.sets.timm_images import TimmImages
from autosample.data.workers import seeded
from autosample.errors import DataError, MissingExtra

NAMES = ("n2", "n10", "n30")  # in timm's order


def draw(path, seed, size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).convert(mode).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Three classes, with four pictures for training and two for validation."""
    for label, name in enumerate(NAMES):
        for i in range(4):
            draw(tmp_path / "train" / name / f"{i}.jpg", 10 * label + i)
        for i in range(2):
            draw(tmp_path / "validation" / name / f"{i}.jpg", 10 * label + i + 5)
    return tmp_path


def made(root, **options):
    return TimmImages(str(root), **{"image_size": 16, "batch_size": 4, "num_workers": 0, "drop_last": False, **options})


def joined(loader):
    batches = list(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


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
        with seeded(3, 2, row):
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


def pack(folder, path, inner=False):
    with tarfile.open(path, "w") as tar:
        for one in sorted(folder.iterdir()):
            if not inner:
                tar.add(one, one.name)
                continue
            packed = folder.parent / f"{one.name}.tar"
            with tarfile.open(packed, "w") as small:
                for file in sorted(one.iterdir()):
                    small.add(file, file.name)
            tar.add(packed, packed.name)


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


def move_out(folder):
    for file in list(folder.glob("*/*")):
        file.rename(folder / f"{file.parent.name}-{file.name}")
    for empty in [path for path in folder.iterdir() if path.is_dir()]:
        empty.rmdir()


def empty(folder):
    for file in folder.glob("*/*"):
        file.unlink()


def cut_tar(share):
    """A share of a tar file is left, or all but the last picture."""

    def change(root):
        for part, name in (("train", "train"), ("validation", "val")):
            pack(root / part, root / f"{name}.tar")
        with tarfile.open(root / "val.tar") as tar:
            last = tar.getmembers()[-1].offset
        whole = (root / "val.tar").read_bytes()
        (root / "val.tar").write_bytes(whole[: last if share is None else int(share * len(whole))])

    return change


def flat_tar(root):
    move_out(root / "train")
    for part, name in (("train", "train"), ("validation", "val")):
        pack(root / part, root / f"{name}.tar")


def tars_of_other_classes(root):
    (root / "train" / "n30").rename(root / "train" / "n31")
    for part, name in (("train", "train"), ("validation", "val")):
        pack(root / part, root / f"{name}.tar")


MISTAKES = {
    "no val": (
        lambda r: (r / "validation").rename(r / "vall"),
        "",
        "got no val or validation or .* finish the download",
    ),
    "no train": (
        lambda r: (r / "train").rename(r / "Train2"),
        "",
        "got no train or training in .* finish the download",
    ),
    "val without classes": (lambda r: move_out(r / "validation"), "", "validation must have one folder of images per"),
    "train without classes": (lambda r: move_out(r / "train"), "", "train must have one folder of images per class"),
    "no pictures": (lambda r: empty(r / "train"), "", r"train must have images \(.*\) in its class folders, got none"),
    "no pictures in val": (lambda r: empty(r / "validation"), "", r"validation must have images \(.*got none"),
    "a class of val": (
        lambda r: [f.unlink() for f in (r / "validation" / "n10").iterdir()],
        "",
        "validation must have pictures of each class, got none of 1, such as n10: finish the download",
    ),
    "a class of train": (
        lambda r: [f.unlink() for f in (r / "train" / "n10").iterdir()],
        "",
        "each class must have a training example, got none for n10",
    ),
    "another class": (
        lambda r: (r / "train" / "n30").rename(r / "train" / "n31"),
        "",
        "the training folder lacks: n30",
    ),
    "no tars": (lambda r: None, "tar", "train.tar and val.tar was expected, got no train.tar or training.tar"),
    "a tar cut short": (cut_tar(0.4), "tar", r"val.tar: not a readable tar file \(its end is missing\)"),
    "a tar cut between pictures": (cut_tar(None), "tar", r"val.tar: not a readable tar file \(its end is missing\)"),
    "a file that is no tar": (
        lambda r: [
            (r / f"{part}.tar").write_bytes(bytes(range(1, 50)) * 50 + bytes(2048)) for part in ("train", "val")
        ],
        "tar",
        r"train.tar: not a readable tar file \(.*make it again",
    ),
    "an empty tar": (
        lambda r: [tarfile.open(r / f"{part}.tar", "w").close() for part in ("train", "val")],
        "tar",
        "train.tar must have pictures in folders of classes, got none",
    ),
    "a flat tar": (flat_tar, "tar", "train.tar must have folders of classes, got pictures outside"),
    "other classes": (tars_of_other_classes, "tar", "val.tar has classes that train.tar lacks: n30"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_wrong_with_a_set_is_said_in_one_line(root, mistake):
    change, name, said = MISTAKES[mistake]
    change(root)
    with pytest.raises(DataError, match=said) as caught:
        made(root, name=name).setup()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "wds/imagenet"}, 'name must be "" .folders., "tar" or "hfds/NAME", got "wds/imagenet"'),
        ({"name": "hfds"}, 'got "hfds"'),
        ({"name": "tfds/imagenet2012"}, 'got "tfds/imagenet2012"'),
        ({"aa": "rand-m9-x3"}, "timm must know the transforms, got"),
        ({"aa": "randd"}, "timm must know the transforms, got"),
        ({"interpolation": "cubic"}, "timm must know the transforms, got KeyError.*cubic"),
        ({"train_interpolation": "cubic"}, "timm must know the transforms, got KeyError.*cubic"),
        ({"num_aug_repeats": -1}, "num_aug_repeats must be at least 0, got -1"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"img_size": 32}, "img_size is called image_size here"),
        ({"on_bad": "ignore"}, 'on_bad must be "raise" or "skip", got "ignore"'),
    ],
)
def test_an_option_that_cannot_be_is_said_at_once(options, said):
    with pytest.raises(DataError, match=said) as caught:
        TimmImages("nowhere", **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.fixture
def damaged(root):
    """Of six pictures for validation, the second one and the last one are cut short; and one for training."""
    for path in (root / "validation/n2/1.jpg", root / "validation/n30/1.jpg", root / "train/n10/2.jpg"):
        path.write_bytes(path.read_bytes()[:200])
    return root


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_picture_that_cannot_be_read_raises(damaged, workers):
    data = made(damaged, num_workers=workers)
    with pytest.raises(DataError, match=r"n2/1\.jpg: not a readable image") as caught:
        list(data.val_dataloader())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_skipped_pictures_are_counted_once_an_epoch(damaged, workers):
    data = made(damaged, num_workers=workers, on_bad="skip", batch_size=2)
    loader = data.val_dataloader()
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"epoch 0 that could not be read: 2; .*n2/1\.jpg") as told:
            x, y = joined(loader)
        assert len(told) == 1
        assert told[0].filename.endswith("workers.py")  # of Lightning's files, the command line hides warnings
        assert y.tolist() == [0, 1, 1, 1, 2, 0]  # the next one's picture and label; behind the last is the first
        assert torch.equal(x[1], x[2])
        assert torch.equal(x[5], x[0])
    data.epoch = 3
    with pytest.warns(UserWarning, match=r"epoch 3 that could not be read: 1; .*n10/2\.jpg"):
        x, y = joined(data.train_dataloader())
    assert Counter(y.tolist()) == {0: 4, 1: 4, 2: 4}  # the one behind it has the same class


def test_a_pass_that_ends_early_tells_too(damaged):
    loader = made(damaged, on_bad="skip", batch_size=2).val_dataloader()
    batches = iter(loader)
    next(batches)
    with pytest.warns(UserWarning, match="epoch 0 that could not be read: 1;"):
        batches.close()


def test_all_batches_have_been_told_of_before_the_last_is_used(damaged):
    """Lightning takes as many batches as there are, and does not ask for one more."""
    loader = made(damaged, on_bad="skip", batch_size=2).val_dataloader()
    batches = iter(loader)
    next(batches), next(batches)
    with pytest.warns(UserWarning, match="epoch 0 that could not be read: 2;"):
        next(batches)
    batches.close()


def test_predictions_are_of_the_pictures_that_there_are(damaged):
    with pytest.raises(DataError, match=r"n2/1\.jpg: not a readable image"):
        list(made(damaged, on_bad="skip").predict_dataloader())


def test_a_set_of_damaged_pictures_raises(root):
    for path in (root / "validation").glob("*/*"):
        path.write_bytes(b"\xff\xd8" + bytes(50))
    with pytest.raises(DataError, match="must be readable, got 10 in a row that are not: check the disk") as caught:
        list(made(root, on_bad="skip").val_dataloader())
    assert len(str(caught.value)) <= 300


def test_a_damaged_picture_in_a_tar_is_named(damaged):
    for part, name in (("train", "train"), ("validation", "val")):
        pack(damaged / part, damaged / f"{name}.tar")
    with pytest.raises(DataError, match=r"n2/1\.jpg: not a readable image"):
        list(made(damaged, name="tar").val_dataloader())
    with pytest.warns(UserWarning, match="could not be read: 2;"):
        list(made(damaged, name="tar", on_bad="skip").val_dataloader())
    with pytest.raises(DataError, match="a file may have 20 bytes, got more"):
        list(made(damaged, name="tar", max_bytes=20).val_dataloader())
