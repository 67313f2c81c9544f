import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from autosample.data import cache, clips
from autosample.data.splits import hold_out
from autosample.errors import DataError


def test_hold_out_is_stratified_and_fixed():
    y = torch.tensor([0] * 100 + [1] * 50 + [2] * 10 + [3] * 2)[torch.randperm(162, generator=torch.Generator())]
    kept, held = hold_out(y, 0.1, seed=3)
    assert sorted(kept.tolist() + held.tolist()) == list(range(162))
    assert Counter(y[held].tolist()) == {0: 10, 1: 5, 2: 1, 3: 1}
    assert torch.equal(held, hold_out(y, 0.1, seed=3)[1])
    assert not torch.equal(held, hold_out(y, 0.1, seed=4)[1])
    assert len(hold_out(y, 0.0, 0)[1]) == 0
    # known rows: a change here would change every published split
    assert hold_out(torch.zeros(10), 0.3, seed=0)[1].tolist() == [2, 4, 8]


def test_hold_out_keeps_one_of_each_class():
    y = torch.tensor([0, 1, 1])
    kept, held = hold_out(y, 0.99, 0)
    assert set(y[kept].tolist()) == {0, 1}
    assert y[held].tolist() == [1]


def test_hold_out_keeps_groups_together():
    y = torch.arange(5).repeat_interleave(12)
    groups = [f"{int(c)}-{i % 12 // 3}" for i, c in enumerate(y)]
    kept, held = hold_out(y, 0.25, 0, groups)
    assert len(held) == 15
    assert not {groups[i] for i in kept} & {groups[i] for i in held}
    # groups larger than the share: the smallest is taken; a class of one group is not touched
    assert len(hold_out(y, 0.01, 0, groups)[1]) == 15
    assert len(hold_out(y, 0.5, 0, [str(int(c)) for c in y])[1]) == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_hold_out_fraction(fraction):
    with pytest.raises(DataError, match=r"must be in \[0, 1\)"):
        hold_out(torch.zeros(3), fraction, 0)


class Counted:
    def __init__(self, value=7):
        self.calls, self.value = 0, value

    def __call__(self, array):
        self.calls += 1
        array[:] = self.value + np.arange(array.size).reshape(array.shape)


def read(folder, fill, key="k", shape=(3, 4)):
    return cache.cached_array(folder, "set.v1", {"files": key}, shape, "float32", fill)


def test_cache_is_used_and_equal(tmp_path):
    fill = Counted()
    plain = read(None, fill)
    first, second = read(tmp_path / "c", fill), read(tmp_path / "c", fill)
    assert fill.calls == 2
    assert np.array_equal(plain, first)
    assert np.array_equal(first, second)
    assert second.dtype == np.float32
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["set.v1.json", "set.v1.npy"]
    torch.from_numpy(second).zero_()  # a change in memory does not reach the file
    assert np.array_equal(plain, read(tmp_path / "c", fill))
    assert fill.calls == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda npy, index: npy.write_bytes(npy.read_bytes()[:-5]),
        lambda npy, index: npy.write_bytes(npy.read_bytes()[:-3] + b"\x7f\x00\x01"),
        lambda npy, index: np.save(npy, np.load(npy)[::-1].copy()),
        lambda npy, index: np.save(npy, np.asfortranarray(np.load(npy))),
        lambda npy, index: index.write_text(json.dumps(json.loads(index.read_text()) | {"sha256": None})),
        lambda npy, index: index.write_text("[" * 100_000),
        lambda npy, index: npy.write_bytes(b""),
        lambda npy, index: npy.write_bytes(b"garbage" * 50),
        lambda npy, index: npy.unlink(),
        lambda npy, index: index.write_text("{"),
        lambda npy, index: index.write_text("[]"),
        lambda npy, index: index.write_text(json.dumps({"version": 0})),
        lambda npy, index: index.unlink(),
        lambda npy, index: np.save(npy, np.zeros((2, 2))),
        lambda npy, index: np.save(npy, np.array([{}], dtype=object), allow_pickle=True),
    ],
)
def test_damaged_cache_is_made_anew(tmp_path, damage):
    fill = Counted()
    want = np.array(read(tmp_path, fill))
    damage(tmp_path / "set.v1.npy", tmp_path / "set.v1.json")
    assert np.array_equal(read(tmp_path, fill), want)
    assert fill.calls == 2
    assert np.array_equal(read(tmp_path, fill), want)
    assert fill.calls == 2


def test_the_digest_is_that_of_the_numbers(tmp_path):
    made = np.array(read(tmp_path, Counted()))
    known = json.loads((tmp_path / "set.v1.json").read_text())["sha256"]
    assert known == hashlib.sha256(made.astype("<f4").tobytes()).hexdigest()


def test_other_key_or_shape_makes_it_anew(tmp_path):
    read(tmp_path, Counted(1))
    assert read(tmp_path, Counted(2), key="other")[0, 0] == 2
    assert read(tmp_path, Counted(3), shape=(2, 2)).shape == (2, 2)


def test_unwritable_place_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    assert read(tmp_path / "file" / "below", Counted())[0, 0] == 7


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert read(tmp_path, Counted())[0, 0] == 7
    assert list(tmp_path.iterdir()) == []


def test_cache_folder(tmp_path):
    assert cache.cache_folder(tmp_path, None) == tmp_path / ".autosample-cache"
    given = cache.cache_folder(tmp_path, str(tmp_path / "elsewhere"))
    assert given is not None
    assert given.parent == tmp_path / "elsewhere"
    assert given != cache.cache_folder(tmp_path / "other", str(tmp_path / "elsewhere"))
    assert cache.cache_folder(tmp_path / "missing", None) is None


def test_threads_pass_errors_on_and_show_progress(monkeypatch, capsys):
    def work(i):
        if i == 3:
            raise DataError("file 3")

    with pytest.raises(DataError, match="file 3"):
        cache.in_threads(work, 10, "x")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("autosample.system.progress.PATIENCE", -1.0)
    done = []
    cache.in_threads(done.append, 10, "decoding things")
    assert sorted(done) == list(range(10))


def test_a_row_of_several_classes_counts_as_of_the_rarest():
    y = torch.tensor([[1, 0, 0]] * 10 + [[1, 1, 0]] * 4 + [[1, 1, 1]] * 2, dtype=torch.bool)
    alone = torch.tensor([0] * 10 + [1] * 4 + [2] * 2)
    for fraction in (0.1, 0.5):
        assert all(map(torch.equal, hold_out(y, fraction, 0), hold_out(alone, fraction, 0)))


def test_what_a_killed_run_left_is_swept(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [tmp_path / f".set.v1.{kind}.{socket.gethostname()}.{dead.pid}-0.partial.{kind}" for kind in ("npy", "json")]
    for path in left:
        path.write_bytes(b"half")
    want = np.array(read(tmp_path, Counted()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.v1.json", "set.v1.npy"]
    assert np.array_equal(read(tmp_path, Counted(0)), want)


WRITE = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from autosample.data.clips import read_clips

def killed(file, array, **kwargs):
    Path(file).write_bytes(array.tobytes()[:100])
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "killed":
    np.save = killed
paths = sorted(Path(sys.argv[1]).glob("*.wav"))
while time.time() < float(sys.argv[3]):
    time.sleep(0.001)
made = read_clips(paths, Path(sys.argv[1]), Path(sys.argv[1], "cache"), 16000, 1600, "peak")
np.save(sys.argv[4], made)
"""


@pytest.mark.slow
def test_two_runs_at_once_and_a_killed_one_share_a_cache(tmp_path):
    """Sounds of another rate: they are resampled once."""
    for i in range(40):
        wave = np.random.default_rng(i).standard_normal(4410) / 10
        soundfile.write(tmp_path / f"{i:02d}.wav", wave, 44100)
    paths = sorted(tmp_path.glob("*.wav"))
    plain = np.stack([clips.read_clip(path, 16000, 1600, "peak") for path in paths])[:, None]

    def start(how, name, at=0.0):
        command = [sys.executable, "-c", WRITE, str(tmp_path), how, str(at), str(tmp_path / name)]
        return subprocess.Popen(command)

    assert start("killed", "none").wait() == -signal.SIGKILL
    assert [path.suffixes[-2:] for path in (tmp_path / "cache").iterdir()] == [[".partial", ".npy"]]
    at = time.time() + 15
    both = [start("whole", f"made{i}.npy", at) for i in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert all(np.array_equal(np.load(tmp_path / f"made{i}.npy"), plain) for i in range(2))
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".npy"]
    paths[3].with_suffix(".txt").write_text("")  # what is not listed does not matter
    soundfile.write(paths[0], np.zeros(4410), 44100)  # the time of change is another
    other = clips.read_clips(paths, tmp_path, tmp_path / "cache", 16000, 1600, "peak")
    assert not other[0].any()
    assert np.array_equal(other[1:], plain[1:])
