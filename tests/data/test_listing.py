"""Which images a folder has: links, loops, pipes, rights, and names that are not UTF-8."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_pngs
from PIL import Image

from autosample.data import ImageFolder, listing
from autosample.data.folders import list_classes, list_images
from autosample.errors import DataError

NAMES = ("ant", "bee")


@pytest.fixture
def root(tmp_path):
    """Two images in each of two classes, in both parts; the first is ant/000.png."""
    for part in ("train", "val"):
        write_pngs(tmp_path / "set" / part, NAMES, 2, size=8)
    return tmp_path / "set"


def found(root, **options):
    """Images of `root/train`, relative to it, and their labels."""
    paths, labels = list_images(root / "train", NAMES, **options)
    return [(os.path.relpath(path, root / "train"), label) for path, label in zip(paths, labels.tolist(), strict=True)]


def refused(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


PLAIN = [("ant/000.png", 0), ("ant/001.png", 0), ("bee/000.png", 1), ("bee/001.png", 1)]


def test_order_is_that_of_folders_and_names(root):
    for name in ("b", "a-b", "a", "a/c"):
        (root / "train" / "ant" / name).mkdir()
        shutil.copy(root / "train" / "ant" / "000.png", root / "train" / "ant" / name / "x.PNG")
    (root / "train" / "ant" / "notes.txt").write_text("")
    inner = [(f"ant/{name}/x.PNG", 0) for name in ("a", "a-b", "a/c", "b")]
    assert found(root) == [*PLAIN[:2], *inner, *PLAIN[2:]]


def test_loops_and_second_links_add_nothing(root):
    ant = root / "train" / "ant"
    (ant / "self").symlink_to(ant)
    (ant / "aaa").symlink_to("self")
    (ant / "z.png").symlink_to("000.png")
    (ant / "deeper").mkdir()
    (ant / "deeper" / "up").symlink_to("../deeper")
    assert found(root) == PLAIN


def test_links_within_the_set_are_followed_once(root):
    pool = root / "pool"
    write_pngs(pool, ("more",), 2, size=8)
    ant = root / "train" / "ant"
    (ant / "1").symlink_to("../../pool/more")
    (ant / "2").symlink_to(pool / "more")
    (ant / "3.png").symlink_to(pool / "more" / "001.png")
    more = [("ant/1/000.png", 0), ("ant/1/001.png", 0)]
    assert found(root) == [*PLAIN[:2], *more, *PLAIN[2:]]


def test_a_whole_part_may_be_a_link(root, tmp_path):
    shutil.move(root / "train", tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "ant" / "b.png").symlink_to("000.png")
    assert found(root) == PLAIN


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/ant/more", "../bee"),
        ("train/ant/x.png", "../bee/000.png"),
        ("train/ant/up", ".."),
        ("train/ant/all", "../.."),
        ("train/ant/val", "../../val/bee"),
        ("train/ant/x.png", "../../val/bee/000.png"),
    ],
)
def test_links_to_another_class_are_refused(root, link, target):
    (root / link).symlink_to(target)
    refused(lambda: found(root), "a link must stay in its class")


def test_class_folders_that_are_links(root, tmp_path):
    (root / "train" / "cow").symlink_to("bee")
    refused(lambda: list_images(root / "train", ("ant", "bee", "cow")), "cow: a link must stay in its class")
    (root / "train" / "cow").unlink()
    write_pngs(tmp_path / "store", ("cows",), 1, size=8)
    (root / "train" / "cow").symlink_to(tmp_path / "store" / "cows")
    names = ("ant", "bee", "cow")
    refused(lambda: list_images(root / "train", names), r"cow: a link must stay in .*set.*allow_outside=True")
    paths, labels = list_images(root / "train", names, allow_outside=True)
    assert labels.tolist() == [0, 0, 1, 1, 2]
    assert paths[-1].endswith("train/cow/000.png")


def test_one_file_outside_under_two_labels_is_refused(root, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    for name in NAMES:
        (root / "train" / name / "o.png").symlink_to(tmp_path / "outside.png")
    refused(lambda: found(root), r"o\.png: a link must stay in .*set")
    refused(lambda: found(root, allow_outside=True), r"o\.png: a link must stay in its class")
    (root / "train" / "bee" / "o.png").unlink()
    (root / "train" / "ant" / "p.png").symlink_to("o.png")
    assert [path for path, _ in found(root, allow_outside=True)] == [
        *("ant/000.png", "ant/001.png", "ant/o.png", "bee/000.png", "bee/001.png")
    ]


def test_broken_links_pipes_and_folders_without_rights(root, monkeypatch):
    link = root / "train" / "ant" / "gone"
    link.symlink_to("nowhere")
    refused(lambda: found(root), "gone: a link must lead to a file or a folder")
    link.unlink()
    os.mkfifo(root / "train" / "ant" / "pipe.png")
    refused(lambda: found(root), r"pipe\.png: an image must be a file, got a pipe")
    (root / "train" / "ant" / "pipe.png").unlink()
    (root / "train" / "bee" / "locked").mkdir()
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(listing.os, "scandir", refuse)  # root may read all folders
    refused(lambda: found(root), "locked: a folder must be readable, got Permission denied")


def test_names_that_are_not_utf_8(root):
    ant = root / "train" / "ant"
    strange = os.fsdecode(b"caf\xe9\n.png")
    shutil.copy(ant / "000.png", ant / strange)
    paths, _ = list_images(root / "train", NAMES)
    assert Path(paths[2]).name == strange
    want = np.asarray(Image.open(ant / "000.png"))
    for resident in (False, True):
        data = ImageFolder(str(root), image_size=8, resident=resident, crop_pct=1.0, num_workers=0, batch_size=9)
        x = data.examples.x
        assert len(data.examples.train) == 5
        if resident:
            assert np.array_equal(x[2].permute(1, 2, 0).numpy(), want)
        else:
            batch = next(iter(data._loader(data.examples.train, data._eval_transform())))[0]
            assert torch.equal(batch[2], batch[0])
    (ant / strange).write_bytes(b"broken")
    data = ImageFolder(str(root), image_size=8, num_workers=0)
    refused(lambda: list(data.train_dataloader()), r"caf\\udce9\\n\.png: not a readable image")
    (root / "train" / os.fsdecode(b"b\xe9")).mkdir()
    refused(lambda: list_classes(root / "train"), r"name in UTF-8, got .*b\\udce9: rename it")


def test_a_worker_reports_in_one_line(root):
    (root / "train" / "ant" / "000.png").write_bytes(b"broken")
    data = ImageFolder(str(root), image_size=8, num_workers=1)
    refused(lambda: list(data.train_dataloader()), r"^/.*ant/000\.png: not a readable image .* remove it$")
