"""Sets like ImageNet: what is missing is said in one line, and what cannot be read is named or counted."""

import tarfile
from collections import Counter

import pytest
import torch
from timm_sets import joined, made, pack

from autosample.data.sets.timm_images import TimmImages
from autosample.errors import DataError


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
        (
            {"name": "wds/imagenet"},
            'name must be "" .folders., "tar", "wds" .shards. or "hfds/NAME", got "wds/imagenet"',
        ),
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
        assert told[0].filename.endswith("timm_sets.py")  # the line that asks for the batches
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
