"""Killed at any moment, a folder holds the old save or the new one."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from saved_models import make

import autosample
from autosample.artifact.files import read_folder, write_folder
from autosample.errors import ArtifactError


class Killed(BaseException):
    """What nothing catches."""


def written(model, folder: Path, compression: str) -> tuple:
    """What a save writes: configuration, tensors and card."""
    config = autosample.save(model, folder, compression=compression)
    name = "model.safetensors.xz" if compression == "xz" else "model.safetensors"
    return config, (folder / name).read_bytes(), (folder / "README.md").read_text()


@pytest.mark.parametrize("compressions", [("none", "none"), ("none", "xz"), ("xz", "none")])
def test_stopped_before_each_change_of_the_folder(tmp_path, monkeypatch, compressions):
    models = [make("digitnet", "wsnet"), make("digitnet", "autosample")]
    old, new = (written(m, tmp_path / f"{i}", c) for i, (m, c) in enumerate(zip(models, compressions, strict=True)))
    found, done = [], False
    for step in range(40):
        folder = tmp_path / f"s{step}"
        write_folder(folder, *old)
        left = [step]

        def counted(call, left=left):
            def wrapper(*args, **kwargs):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return call(*args, **kwargs)

            return wrapper

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink", "open", "mkdir"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            patch.setattr(os, "fsync", counted(os.fsync))
            try:
                write_folder(folder, *new)
                done = True
            except Killed:
                pass
        config, raw = read_folder(folder)
        found.append([c == config and len(raw) == c.tensors.raw_bytes for c in (old[0], new[0])].index(True))
        if done:
            break
        # what was left lying about does not disturb the next save, and goes with it
        write_folder(folder, *new)
        assert read_folder(folder)[0] == new[0]
        suffix = ".xz" if compressions[1] == "xz" else ""
        assert {p.name for p in folder.iterdir()} == {"config.json", "README.md", f"model.safetensors{suffix}"}
    assert done
    assert found == sorted(found)
    assert {*found} == {0, 1}


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from saved_models import make
import autosample
from autosample.artifact import compact_state

folder, rng = Path(sys.argv[1]), random.Random(0)
torch.manual_seed(0)
models = [make("digitnet", "wsnet"), make("digitnet", "autosample")]
wanted = []
for i, model in enumerate(models):
    autosample.save(model, folder / str(i))
    wanted.append(compact_state(autosample.load(folder / str(i))))
autosample.save(models[0], folder / "x")
seen = set()
for turn in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        while True:
            for model in models:
                autosample.save(model, folder / "x")
    time.sleep(0.02 + 0.3 * rng.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    got = compact_state(autosample.load(folder / "x"))
    seen.add([all(torch.equal(w[k], got.get(k, torch.empty(0))) for k in w) for w in wanted].index(True))
print(sorted(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize("turns", [60])
def test_killed_at_random_moments(tmp_path, turns):
    code = KILLED.format(here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, str(turns)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("[0]", "[1]", "[0, 1]")


def test_two_threads_save_into_one_folder(tmp_path):
    """4 of 16 raised: one removed the tensors that another one was about to rename."""
    models = [make("digitnet", "wsnet"), make("digitnet", "autosample")]
    saves = [written(model, tmp_path / str(i), "none") for i, model in enumerate(models)]
    folder, errors = tmp_path / "both", []

    def save(one: tuple) -> None:
        try:
            for _ in range(40):
                write_folder(folder, *one)
        except ArtifactError as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(one,)) for one in saves * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read_folder(folder)[0] in [config for config, *_ in saves]
    assert {path.name for path in folder.iterdir()} == {"config.json", "README.md", "model.safetensors"}


def test_other_files_are_left_alone(tmp_path):
    model = make("digitnet", "wsnet")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model-mine.safetensors").write_text("mine")
    autosample.save(model, tmp_path)
    autosample.save(model, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "model-mine.safetensors").read_text() == "mine"
    for name in ("config.json", "README.md"):
        other = tmp_path / name.replace(".", "-")
        other.mkdir()
        (other / name).write_text("{}")
        with pytest.raises(ArtifactError, match="choose another folder"):
            autosample.save(model, other)
        assert [p.name for p in other.iterdir()] == [name]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        autosample.save(make("digitnet", "wsnet"), tmp_path / "file")
