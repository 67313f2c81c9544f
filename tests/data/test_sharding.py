"""Writing shards: what becomes of folders and tables, what a break leaves, files that cannot be read, and the check."""

import subprocess
import sys
import tarfile

import pytest
from data_files import write_table, write_tone
from timm_sets import NAMES, draw, made

from autosample.data import sharding
from autosample.data.files import Limits
from autosample.data.sharding import check_shards, write_shards
from autosample.errors import DataError


def members(path):
    with tarfile.open(path) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_folder_without_parts_is_for_training(root):
    index, bad = write_shards(root / "train", root / "out", size=7)
    assert (index.names, bad) == (NAMES, [])
    assert [(shard.name, shard.count) for shard in index.parts["train"]] == [
        ("train-000000.tar", 7),
        ("train-000001.tar", 5),
    ]
    assert list(index.parts) == ["train"]


def test_parts_have_their_usual_names(root):
    (root / "train").rename(root / "training")
    draw(root / "testing" / "n10" / "a.png", 77)
    index, _ = write_shards(root, root / "out")
    assert {part: [shard.name for shard in shards] for part, shards in index.parts.items()} == {
        "train": ["train-000000.tar"],
        "val": ["val-000000.tar"],
        "test": ["test-000000.tar"],
    }
    assert members(root / "out" / "test-000000.tar") == {
        "00000000.png": (root / "testing" / "n10" / "a.png").read_bytes(),
        "00000000.cls": b"1",
    }


def test_suffixes_are_those_that_readers_know(root):
    draw(root / "train" / "n2" / "0.JPEG", 1)
    (root / "train" / "n2" / "0.jpg").unlink()
    write_shards(root, root / "out")
    assert members(root / "out" / "train-000000.tar")["00000000.jpg"] == (root / "train" / "n2" / "0.JPEG").read_bytes()


def test_a_folder_of_sounds(tmp_path):
    for part, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(("bark", "song")):
            for i in range(count):
                write_tone(tmp_path / part / name / f"{i}{'.WAV' if i else '.flac'}", hertz=100 * (1 + label + 2 * i))
    index, _ = write_shards(tmp_path, tmp_path / "out")
    assert index.names == ("bark", "song")
    found = members(tmp_path / "out" / "train-000000.tar")
    assert len(found) == 12
    assert found["00000000.flac"] == (tmp_path / "train" / "bark" / "0.flac").read_bytes()
    assert found["00000005.wav"] == (tmp_path / "train" / "song" / "2.WAV").read_bytes()
    assert found["00000005.cls"] == b"1"


def rows(folder, **columns):
    """A table of six sounds in two classes; further columns come from functions of the number."""
    table = []
    for i in range(6):
        write_tone(folder / "audio" / f"{i}.wav", hertz=100 * (i + 1))
        row = {"path": f"audio/{i}.wav", "label": "ab"[i % 2]}
        table.append(row | {name: value(i) for name, value in columns.items()})
    return write_table(folder / "set.csv", table)


@pytest.mark.parametrize(
    ("columns", "fold", "wanted"),
    [
        (
            {"split": lambda i: ("train", "train", "valid", "train", "test", "train")[i]},
            None,
            {"train": [0, 1, 3, 5], "val": [2], "test": [4]},
        ),
        ({"split": lambda i: "test" if i > 3 else "train"}, None, {"train": [0, 1, 2, 3], "val": [4, 5]}),
        ({"fold": lambda i: i // 2}, 1, {"train": [0, 1, 4, 5], "val": [2, 3]}),
    ],
)
def test_a_table_has_its_parts(tmp_path, columns, fold, wanted):
    index, _ = write_shards(rows(tmp_path, **columns), tmp_path / "out", fold=fold)
    assert index.names == ("a", "b")
    assert list(index.parts) == list(wanted)
    for part, numbers in wanted.items():
        found = members(tmp_path / "out" / f"{part}-000000.tar")
        assert found == {
            name: data
            for place, i in enumerate(numbers)
            for name, data in (
                (f"{place:08d}.wav", (tmp_path / "audio" / f"{i}.wav").read_bytes()),
                (f"{place:08d}.cls", str(i % 2).encode()),
            )
        }


def test_a_table_of_pictures_can_be_trained_on(root):
    table = [
        {"path": str(path.relative_to(root)), "label": path.parent.name, "split": path.parts[-3].replace("idation", "")}
        for path in sorted(root.glob("*/*/*"))
    ]
    write_shards(write_table(root / "pictures.csv", table), root / "out")
    data = made(root / "out", name="wds")
    assert data.class_names == ("n10", "n2", "n30")  # sorted as text, as in AudioCSV
    assert data.sizes == {"train": 12, "val": 6, "test": 6}


# --- breaks ----------------------------------------------------------------------------------------------------------


def test_a_break_leaves_whole_shards_which_are_kept(root, monkeypatch):
    write_shards(root, root / "wanted", size=3)
    real, count = sharding._read, []

    def read(path, limits):
        count.append(path)
        if len(count) == 8:
            raise KeyboardInterrupt
        return real(path, limits)

    monkeypatch.setattr(sharding, "_read", read)
    # one after the other, so that it is known what has been written
    monkeypatch.setattr(sharding, "in_threads", lambda work, count, label: [work(i) for i in range(count)])
    with pytest.raises(KeyboardInterrupt):
        write_shards(root, root / "out", size=3)
    assert sorted(contents(root / "out")) == ["train-000000.tar", "train-000001.tar"]
    with pytest.raises(DataError, match=r"must have an index _info\.json, which is written last, got none"):
        check_shards(root / "out")
    kept = (root / "out" / "train-000000.tar").stat().st_ino
    write_shards(root, root / "out", size=3)
    assert len(count) == 8 + 12  # of 18 files, 6 were there
    assert contents(root / "out") == contents(root / "wanted")
    assert (root / "out" / "train-000000.tar").stat().st_ino == kept


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from autosample.data import sharding

source, out, real, rng = Path(sys.argv[1]), Path(sys.argv[2]), sharding._read, random.Random(0)

def slow(path, limits):
    time.sleep(0.01)
    return real(path, limits)

sharding._read = slow
for turn in range(12):
    child = os.fork()
    if not child:
        sharding.write_shards(source, out, size=3)
        os._exit(0)
    before = len(list(out.glob("[!.]*")))
    while len(list(out.glob("[!.]*"))) < before + 2 and not (out / "_info.json").exists():
        time.sleep(0.01)
    time.sleep(0.05 * rng.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(*(path.name for path in out.glob("[!.]*")))
sharding.write_shards(source, out, size=3)
"""


@pytest.mark.slow
def test_killed_at_random_moments(root):
    """Whatever has a final name is whole, and the index is not there before the last shard."""
    for i in range(80):
        draw(root / "train" / "n2" / f"more{i}.jpg", i)
    write_shards(root, root / "wanted", size=3)
    code = [sys.executable, "-c", KILLED, root, root / "out"]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    wanted = contents(root / "wanted")
    seen = [set(line.split()) for line in done.stdout.splitlines()]
    assert len({len(names) for names in seen}) >= 3  # it went on
    assert all("_info.json" not in names or names == wanted.keys() for names in seen)
    assert contents(root / "out") == wanted
    assert not [path for path in (root / "out").iterdir() if "partial" in path.name]


def test_other_files_or_another_seed_make_other_shards(root):
    write_shards(root, root / "out", size=5, seed=1)
    draw(root / "train" / "n10" / "1.jpg", 99)
    for seed in (1, 2):
        write_shards(root, root / "out", size=5, seed=seed)
        write_shards(root, root / f"new{seed}", size=5, seed=seed)
        assert contents(root / "out") == contents(root / f"new{seed}")


def test_shards_of_another_set_are_not_mixed_in(root):
    write_shards(root, root / "out", size=2)
    before = contents(root / "out")
    with pytest.raises(DataError, match=r"must be free of other shards, got 4, such as train-000003.tar: choose"):
        write_shards(root, root / "out", size=4)
    assert contents(root / "out") == before


# --- files that cannot be read ---------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_named_or_counted(root):
    bad = root / "train" / "n10" / "2.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"n10/2\.jpg: not a readable image"):
        write_shards(root, root / "out", size=4)
    assert "_info.json" not in contents(root / "out")
    for _ in range(2):  # the second time the shard is there
        index, said = write_shards(root, root / "out", size=4, skip=True)
        assert sum(shard.count for shard in index.parts["train"]) == 11
        assert len(said) == 1
        assert "n10/2.jpg: not a readable image" in said[0]
    check_shards(root / "out")
    data = made(root / "out", name="wds")
    assert data.examples.y[:11].tolist() == [0] * 4 + [1] * 3 + [2] * 4
    with pytest.raises(DataError, match=r"n10/2\.jpg: not a readable image"):
        write_shards(root, root / "out", size=4)
    bad.write_bytes(whole)  # and the shard is written again
    index, said = write_shards(root, root / "out", size=4)
    assert (sum(shard.count for shard in index.parts["train"]), said) == (12, [])


def test_limits_hold(root):
    with pytest.raises(DataError, match="an image may have 100 pixels"):
        write_shards(root, root / "out", limits=Limits(max_pixels=100))
    with pytest.raises(DataError, match="a file may have 50 bytes"):
        write_shards(root, root / "out", limits=Limits(max_bytes=50))


@pytest.mark.parametrize("content", [b"", b"RIFF", b"fLaC" + bytes(200)])
def test_a_damaged_sound_is_named_or_counted(tmp_path, content):
    for i in range(3):
        write_tone(tmp_path / "set" / "a" / f"{i}.flac")
    path = tmp_path / "set" / "a" / "1.flac"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"1\.flac: not a readable"):
        write_shards(tmp_path / "set", tmp_path / "out")
    index, bad = write_shards(tmp_path / "set", tmp_path / "out", skip=True)
    assert (index.parts["train"][0].count, len(bad)) == (2, 1)


def test_a_sound_cut_short_is_named(tmp_path):
    path = write_tone(tmp_path / "set" / "a" / "0.flac", seconds=3.0)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"0\.flac: (not a readable audio file|an audio file must have its samples)"):
        write_shards(tmp_path / "set", tmp_path / "out")


# --- the check -------------------------------------------------------------------------------------------------------


def test_the_check_compares_counts_and_sizes(root):
    out = root / "out"
    written, _ = write_shards(root, out, size=4)
    assert check_shards(out) == written
    path = out / "train-000001.tar"
    whole = path.read_bytes()
    for data, got in ((whole[:-600], "4 in"), (whole + bytes(512), "4 in"), (whole[:600], "0 in"), (b"", "0 in 0")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"got 1 that are not: train-000001.tar must have 4 .* got {got}") as told:
            check_shards(out)
        assert len(str(told.value)) <= 300
    path.unlink()
    with pytest.raises(DataError, match=r"got 1 that are not: train-000001.tar must have 4 examples in .*, got 0 in 0"):
        check_shards(out)


MISTAKES = {
    "nowhere": (lambda root: root / "nowhere", {}, "a folder with one folder per class, or a CSV table, was expected"),
    "no classes": (lambda root: root / "train" / "n2", {}, "must have one folder of images per class, got none"),
    "no size": (lambda root: root, {"size": 0}, "size must be at least 1, got 0"),
    "no seed": (lambda root: root, {"seed": -1}, "seed must be at least 0, got -1"),
    "no table": (lambda root: root / "train" / "n2" / "0.jpg", {}, "cannot be read as a CSV table"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(root, mistake):
    source, options, said = MISTAKES[mistake]
    with pytest.raises(DataError, match=said):
        write_shards(source(root), root / "out", **options)
    assert not (root / "out").exists()


def test_a_part_alone_is_half_a_set(root):
    (root / "train").rename(root / "trian")
    with pytest.raises(DataError, match="must have a folder train beside val, got none: finish the download"):
        write_shards(root, root / "out")


def test_a_class_of_validation_alone_is_a_mistake(root):
    draw(root / "validation" / "n77" / "a.jpg", 1)
    with pytest.raises(DataError, match="has class folders that the training folder lacks: n77"):
        write_shards(root, root / "out")


def test_a_folder_that_cannot_be_written_is_named(root):
    (root / "out").write_text("a file")
    with pytest.raises(DataError, match="out must be writable, got File exists: choose another folder"):
        write_shards(root, root / "out")
