"""Sets in shards: the same pictures, numbers and batches as in folders; faults of shards are said or counted."""

import io
import json
import multiprocessing
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset
from timm_sets import NAMES, joined, made

from autosample.data import shards
from autosample.data.pictures import PictureBatches
from autosample.data.resident import BatchPlan
from autosample.data.sets.timm_images import TimmImages
from autosample.data.sharding import write_shards
from autosample.errors import DataError


@pytest.fixture
def packed(root):
    """The same set in shards of five pictures: three for training and two for validation."""
    write_shards(root, root / "shards", size=5, seed=1)
    return root / "shards"


def members(path):
    with tarfile.open(path) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}


def cut(path, keep, inside=100):
    """Cut a shard within the picture behind the first `keep`."""
    with tarfile.open(path) as tar:
        end = tar.getmembers()[2 * keep].offset_data + inside
    path.write_bytes(path.read_bytes()[:end])


def test_shards_hold_the_files_as_they_are(root, packed):
    found = {name: data for path in sorted(packed.glob("train-*.tar")) for name, data in members(path).items()}
    assert len(found) == 2 * 12
    for label, name in enumerate(NAMES):
        for i in range(4):
            key = f"{4 * label + i:08d}"
            assert found[f"{key}.jpg"] == (root / "train" / name / f"{i}.jpg").read_bytes()
            assert found[f"{key}.cls"] == str(label).encode()
    info = json.loads((packed / "_info.json").read_text())
    assert info["classes"] == list(NAMES)
    assert info["splits"]["train"]["filenames"] == [f"train-{i:06d}.tar" for i in range(3)]
    assert info["splits"]["train"]["shard_lengths"] == [5, 5, 2]
    assert info["splits"]["val"]["bytes"] == [path.stat().st_size for path in sorted(packed.glob("val-*.tar"))]


def test_pictures_of_a_class_are_in_several_shards_by_the_seed(root, packed):
    first = [int(data) for name, data in members(packed / "train-000000.tar").items() if name.endswith("cls")]
    assert first != sorted(first)
    for seed, same in ((1, True), (2, False)):
        write_shards(root, root / f"again{seed}", size=5, seed=seed)
        for path in packed.glob("*.tar"):
            assert (members(path) == members(root / f"again{seed}" / path.name)) == same
            assert (path.read_bytes() == (root / f"again{seed}" / path.name).read_bytes()) == same


@pytest.mark.parametrize("indexed", [True, False])
def test_training_on_shards_has_the_same_numbers_as_on_the_folder(root, packed, indexed):
    if not indexed:
        (packed / "_info.json").unlink()
    options = {"aa": "rand-m9-mstd0.5-inc1", "re_prob": 0.5, "seed": 3}
    data, folder = made(packed, name="wds", **options), made(root, **options)
    assert data.class_names == (NAMES if indexed else ("0", "1", "2"))
    assert data.sizes == folder.sizes
    for part in ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"):
        data.epoch = folder.epoch = 2
        (x, y), (want, labels) = joined(getattr(data, part)()), joined(getattr(folder, part)())
        assert torch.equal(x, want)
        assert torch.equal(y, labels)
    held = [made(place, name=name, val_fraction=0.25) for place, name in ((packed, "wds"), (root, ""))]
    assert torch.equal(held[0].examples.val, held[1].examples.val)


def test_more_ranks_than_shards_see_each_picture_once(root, packed):
    write_shards(root, root / "one")
    assert len(list((root / "one").glob("train-*"))) == 1
    for place, world in ((packed, 2), (root / "one", 5)):
        data = made(place, name="wds", re_prob=0.5)
        x, y = joined(data.train_dataloader())
        seen = {}
        for rank in range(world):
            plan = BatchPlan(12, 4, True, rank=rank, world_size=world)
            batches = PictureBatches(data.examples.x, data._train_transform(), plan, data.examples.train)
            pictures, labels = joined(batches[number] for number in range(len(plan)))
            seen |= dict(zip(plan.order(0).tolist(), zip(pictures, labels, strict=True), strict=True))
        order = BatchPlan(12, 4, True).order(0).tolist()
        assert torch.equal(torch.stack([seen[row][0] for row in order]), x)
        assert torch.equal(torch.stack([seen[row][1] for row in order]), y)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_goes_on_within_an_epoch(packed, workers):
    options = {"name": "wds", "aa": "rand-m9", "re_prob": 0.5}
    x, y = joined(made(packed, **options).train_dataloader())
    loader = made(packed, num_workers=workers, **options).train_dataloader()
    loader.load_state_dict({"epoch": 0, "batch": 1})
    again, labels = joined(loader)
    assert torch.equal(again, x[4:])
    assert torch.equal(labels, y[4:])


def test_headers_are_read_once(packed, monkeypatch):
    read, real = [], shards.scan_shard
    monkeypatch.setattr(shards, "scan_shard", lambda path: read.append(path.name) or real(path))
    first = made(packed, name="wds")
    x, _ = joined(first.val_dataloader())
    assert sorted(read) == sorted(path.name for path in packed.glob("*.tar"))
    again, _ = joined(made(packed, name="wds").val_dataloader())
    assert len(read) == 5
    assert torch.equal(again, x)
    other = members(packed / "val-000000.tar")
    (packed / "val-000000.tar").unlink()  # as after another download
    with tarfile.open(packed / "val-000000.tar", "w") as tar:
        for name, data in other.items():
            add(tar, name, data)
    made(packed, name="wds").setup()
    assert read[5:] == ["val-000000.tar", "val-000001.tar"]


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def picture(seed):
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def test_shards_of_others_are_read(tmp_path):
    """Names as timm's sets have them: keys that are no numbers, folders, further files, long names; and no index."""
    names = {"imagenet1k-train-0000.tar": 3, "imagenet1k-train-0001.tar": 3, "imagenet1k-validation-00.tar": 2}
    long = "d" * 90 + "/" + "f" * 60
    number, wanted = 0, []
    for file, count in names.items():
        with tarfile.open(tmp_path / file, "w") as tar:
            for i in range(count):
                key = long if i == 1 else f"n0/key_{9 - i}"
                for suffix, data in ((".cls", str(i % 2)), (".json", "{}"), (".PNG", picture(number))):
                    add(tar, key + suffix, data.encode() if isinstance(data, str) else data)
                wanted.append((i % 2, picture(number)))
                number += 1
    data = made(tmp_path, name="wds", crop_pct=1.0, image_size=20, mean=(0, 0, 0), std=(1, 1, 1))
    assert data.class_names == ("0", "1")
    found = [data.examples.x.image(i, data.limits) for i in range(8)]
    assert data.examples.y.tolist() == [label for label, _ in wanted]
    for image, (_, png) in zip(found, wanted, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(png))))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_webdataset_and_timm_read_these_shards(root, packed):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(packed.glob("train-*.tar"))]
    read = {(one["jpg"], int(one["cls"])) for one in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)}
    files = {(path.read_bytes(), NAMES.index(path.parent.name)) for path in (root / "train").glob("*/*")}
    assert read == files
    dataset = create_dataset("wds/mine", root=str(packed), split="val")
    assert len(dataset) == 6
    got = {(image.tobytes(), label) for image, label in dataset}
    data = made(packed, name="wds")
    mine = [(data.examples.x.image(i, data.limits).tobytes(), int(data.examples.y[i])) for i in range(12, 18)]
    assert got == set(mine)


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("inside", [100, -512])  # within the picture, or between two
def test_a_shard_cut_short_is_named_or_counted(root, packed, indexed, inside):
    keys = [name for name in members(packed / "train-000001.tar") if name.endswith("jpg")]
    gone = {int(key[:8]) for key in keys[2:]}
    cut(packed / "train-000001.tar", 2, inside)
    if not indexed:
        (packed / "_info.json").unlink()
    of = " of 5" if indexed else ""
    for _ in range(2):  # the second time from the cache
        with pytest.raises(
            DataError, match=rf"train-000001.tar: a shard must be whole, got 2{of} examples: "
        ) as caught:
            made(packed, name="wds").setup()
        assert "\n" not in str(caught.value)
        left = "3" if indexed else "unknown"
        data = made(packed, name="wds", on_bad="skip")
        with pytest.warns(UserWarning, match=f"missing or cut short: 1; examples left out: {left}; the first") as told:
            data.setup()
        assert len(told) == 1
        assert told[0].filename.endswith("shards.py")
        assert data.sizes["train"] == 9
    folder, rest = made(root), [i for i in range(12) if i not in gone]
    assert data.examples.y[:9].tolist() == [i // 4 for i in rest]
    for i, number in enumerate(rest):
        mine, theirs = (d.examples.x.image(n, d.limits) for d, n in ((data, i), (folder, number)))
        assert mine.tobytes() == theirs.tobytes()


def test_a_missing_shard_is_named_or_counted(packed):
    (packed / "train-000002.tar").unlink()
    with pytest.raises(DataError, match=r"train-000002.tar: a shard must be whole, got 0 of 2 examples: finish the do"):
        made(packed, name="wds").setup()
    with pytest.warns(UserWarning, match="cut short: 1; examples left out: 2;"):
        assert made(packed, name="wds", on_bad="skip").sizes["train"] == 10


def test_a_damaged_picture_in_a_shard_is_named_or_counted(packed):
    path = packed / "val-000000.tar"
    with tarfile.open(path) as tar:
        one = tar.getmembers()[0]
    whole = bytearray(path.read_bytes())
    whole[one.offset_data : one.offset_data + one.size] = bytes(one.size)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=rf"val-000000.tar/{one.name}: not a readable image"):
        list(made(packed, name="wds").val_dataloader())
    with pytest.warns(UserWarning, match=rf"could not be read: 1; .*val-000000.tar/{one.name}"):
        list(made(packed, name="wds", on_bad="skip").val_dataloader())


def change_index(**changes):
    def change(folder):
        info = json.loads((folder / "_info.json").read_text())
        (folder / "_info.json").write_text(json.dumps({**info, **changes}))

    return change


def no_class(folder):
    with tarfile.open(folder / "val-000000.tar", "w") as tar:
        add(tar, "7.png", picture(0))


def other_class(text):
    def change(folder):
        with tarfile.open(folder / "val-000000.tar", "w") as tar:
            add(tar, "7.png", picture(0))
            add(tar, "7.cls", text)

    return change


def remove(pattern, *more):
    return lambda folder: [path.unlink() for one in (pattern, *more) for path in folder.glob(one)]


def size_below_zero(folder):
    info = tarfile.TarInfo("7.jpg")
    info.size = -512
    (folder / "val-000001.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


MISTAKES = {
    "a size below zero": (size_below_zero, "val-000001.tar: a shard must be whole, got 0 of 1 examples"),
    "no shards": (remove("*"), "got none of train in .*shards: finish the download, or shard again"),
    "no validation": (remove("val*", "*.json"), "got none of val in .*: finish the download"),
    "all of a part": (remove("val*"), "val-000000.tar: a shard must be whole, got 0 of 5 examples"),
    "an index of text": (lambda f: (f / "_info.json").write_text("yes"), "_info.json: not a readable index of shards"),
    "an index without parts": (change_index(splits=[]), "_info.json: not a readable index of shards"),
    "an index of no parts": (change_index(splits={}), "got none of train in"),
    "an index that leads away": (
        change_index(splits={"train": {"filenames": ["../train.tar"], "shard_lengths": [1]}}),
        "not a readable index of shards .*names must be of files beside it",
    ),
    "few names": (change_index(classes=["n2", "n10"]), "must name each class, got 2 names and the number 2"),
    "a class without pictures": (
        change_index(classes=[*NAMES, "n40"]),
        "must have pictures of each class, got none of 1, such as n40",
    ),
    "no class": (no_class, "must have the number of its class in KEY.cls, got none for 7: make the shard again"),
    "a class by name": (other_class(b"n2"), "must have the number of its class in KEY.cls, got none for 7"),
    "a class below zero": (other_class(b"-1"), "must have the number of its class in KEY.cls, got none for 7"),
    "no tar": (
        lambda f: (f / "val-000001.tar").write_bytes(b"x" * 9999),
        "val-000001.tar: a shard must be whole, got 0",
    ),
    "an empty file": (
        lambda f: (f / "val-000001.tar").write_bytes(b""),
        "val-000001.tar: a shard must be whole, got 0",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_wrong_with_shards_is_said_in_one_line(packed, mistake):
    change, said = MISTAKES[mistake]
    change(packed)
    with pytest.raises(DataError, match=said) as caught:
        made(packed, name="wds").setup()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_folder_of_shards_says_what_it_is(packed):
    with pytest.raises(DataError, match=r"got no train or training in .*shards: pass name=wds"):
        made(packed).setup()


def test_damage_between_two_pictures_is_noticed_without_an_index(packed):
    path = packed / "train-000000.tar"
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4].offset
    whole = bytearray(path.read_bytes())
    whole[third : third + 512] = b"z" * 512  # a header
    path.write_bytes(whole)
    (packed / "_info.json").unlink()
    with pytest.raises(DataError, match=r"train-000000.tar: a shard must be whole, got 2 examples"):
        made(packed, name="wds").setup()


# --- memory ----------------------------------------------------------------------------------------------------------


def own_bytes(pid):
    """Memory of a process that belongs to it alone or was changed by it [bytes]; pages of files do not count."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.slow
def test_the_memory_of_a_worker_is_flat(tmp_path):
    """In the first epochs its allocator takes what it needs. After that it reads far more than it may grow."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    rng = np.random.default_rng(0)
    for part, count in (("train", 160), ("val", 4)):
        for i in range(count):
            path = tmp_path / "set" / part / f"c{i % 4}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (384, 384, 3), dtype=np.uint8)).save(path, quality=95)
    index, _ = write_shards(tmp_path / "set", tmp_path / "shards", size=50)
    data = TimmImages(str(tmp_path / "shards"), name="wds", image_size=64, batch_size=4, num_workers=1)
    loader, seen = data.train_dataloader(), []
    for data.epoch in range(5):
        for batch, _ in enumerate(loader):
            if batch == 35:
                (worker,) = multiprocessing.active_children()
                seen.append(own_bytes(worker.pid))
    assert 3 * sum(shard.size for shard in index.parts["train"]) > 60e6
    assert seen[4] - seen[1] < 4e6, seen


def test_nothing_is_warned_about_whole_shards(packed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joined(made(packed, name="wds", on_bad="skip").val_dataloader())
