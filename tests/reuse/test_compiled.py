"""The compiled library on disk: checked before it is loaded, used as it is where it can be, failures remembered."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autosample.reuse import compiled, fused
from autosample.reuse.compiled import NoLibrary, load_library
from autosample.system.files import alive, user_cache

CSRC = Path(fused.__file__).parent / "csrc"
#: stands for the compiler: copies a library that is there already, and leaves a line for each build
COPY = """
import json, pathlib, shutil, sys
pathlib.Path({builds!r}).open("a").write("built\\n")
shutil.copy({ready!r}, pathlib.Path(json.loads(sys.argv[1])["build_directory"], "kernel.so"))
"""
FAIL = """
import pathlib, sys
pathlib.Path({builds!r}).open("a").write("built\\n")
print("[1/2] c++ window_conv.cpp\\nwindow_conv.cpp:3:1: fatal error: {long}\\ncompilation terminated.")
sys.exit(1)
"""


@pytest.fixture(scope="session")
def ready(tmp_path_factory) -> Path:
    """A tiny library with a function that returns 42."""
    if shutil.which("c++") is None:
        pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("ready")
    (folder / "a.cpp").write_text('extern "C" int answer() { return 42; }')
    subprocess.run(["c++", "-shared", "-fPIC", "-o", folder / "ready.so", folder / "a.cpp"], check=True)
    return folder / "ready.so"


class Place:
    """A folder of extensions, and a build that is counted."""

    def __init__(self, root: Path, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.ready, self.monkeypatch = root / "extensions" / "some", ready, monkeypatch
        self.builds = root / "builds"
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(root / "extensions"))
        monkeypatch.delenv("AUTOSAMPLE_FUSED", raising=False)
        self.build_by(COPY)

    def build_by(self, script: str, **more: str) -> None:
        code = script.format(builds=str(self.builds), ready=str(self.ready), **more)
        self.monkeypatch.setattr(compiled, "_BUILD", code)

    @property
    def count(self) -> int:
        return self.builds.read_text().count("\n") if self.builds.exists() else 0

    def file(self) -> Path:
        (path,) = self.folder.glob("*.so")
        return path

    def works(self) -> bool:
        load_library("some", {"sources": []})
        return ctypes.CDLL(str(self.file())).answer() == 42


@pytest.fixture
def place(tmp_path, ready, monkeypatch) -> Place:
    return Place(tmp_path, ready, monkeypatch)


def test_it_is_built_once(place, capfd):
    assert place.works()
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "building the fused kernel" in said
    assert place.works()
    assert place.count == 1
    assert capfd.readouterr().err == ""
    assert {path.suffix for path in place.folder.iterdir()} <= {".so", ""}  # nothing but the library and the lock


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b[:900] + b"?" + b[901:]])
def test_a_damaged_library_is_never_loaded(place, damage):
    """Half a library ends the process with SIGBUS."""
    place.works()
    path, whole = place.file(), place.file().read_bytes()
    path.unlink()  # it is loaded: writing into it would end this process too
    path.write_bytes(damage(whole))
    assert place.works()
    assert place.file().read_bytes() == whole
    assert place.count == 2


def test_without_compiler_and_without_writing(place, monkeypatch):
    assert place.works()

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiled, "write_bytes", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(os, "open", refuse)  # how a lock opens its file
    assert place.works()
    assert place.count == 1


def test_without_compiler_it_says_so(place, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(NoLibrary, match=r'got none called "no-such-compiler -O1": install g\+\+, or set CXX'):
        load_library("some", {})
    monkeypatch.delenv("CXX")
    assert place.works()


def test_a_home_that_cannot_be_written(place, monkeypatch, tmp_path):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "a file"))
    with pytest.raises(NoLibrary, match=r"needs a folder that can be written, got .*set TORCH_EXTENSIONS_DIR"):
        load_library("some", {})
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(NoLibrary, match="the user has no home directory: set TORCH_EXTENSIONS_DIR"):
        load_library("some", {})


def test_a_failure_is_remembered_until_something_changes(place, monkeypatch, tmp_path):
    place.build_by(FAIL, long="x" * 5000)
    for _ in range(3):
        with pytest.raises(
            NoLibrary, match=r"window_conv.cpp:3:1: fatal error: xxx.*set AUTOSAMPLE_FUSED=retry"
        ) as caught:
            load_library("some", {})
        assert len(str(caught.value)) <= 300
    assert place.count == 1
    # another compiler
    compiler = tmp_path / "mine"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    for _ in range(2):
        with pytest.raises(NoLibrary):
            load_library("some", {})
    assert place.count == 2
    # the same one, but newer
    os.utime(compiler, (1, 1))
    with pytest.raises(NoLibrary):
        load_library("some", {})
    assert place.count == 3
    # on request; a success forgets the failure
    place.build_by(COPY)
    with pytest.raises(NoLibrary, match="in an earlier process"):
        load_library("some", {})
    monkeypatch.setenv("AUTOSAMPLE_FUSED", "retry")
    assert place.works()
    assert not (place.folder / "failed.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"compiler": 1}', '{"reason": "x"}', "null"])
def test_a_damaged_note_of_a_failure_does_not_matter(place, text):
    place.folder.mkdir(parents=True)
    (place.folder / "failed.json").write_text(text)
    assert place.works()


def test_a_full_disk_ends_at_once_and_is_not_remembered(place, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(NoLibrary, match="No space left on device"):
            load_library("some", {})
    assert place.count == 0
    assert place.works()


def test_a_compiler_that_hangs(place, monkeypatch, tmp_path):
    pid = tmp_path / "pid"
    child = "import subprocess; c = subprocess.Popen(['sleep', '600'])"
    hang = f"{child}; open({str(pid)!r}, 'w').write(str(c.pid)); c.wait()"
    monkeypatch.setattr(compiled, "_BUILD", hang)
    monkeypatch.setattr(compiled, "_LIMIT", 1.5)
    start = time.monotonic()
    with pytest.raises(NoLibrary, match=r"took more than 2 s.*retry"):
        load_library("some", {})
    assert time.monotonic() - start < 10
    for _ in range(50):  # what the compiler has started is gone too, once the system has reaped it
        if (
            not alive(int(pid.read_text()))
            or "Z" in Path(f"/proc/{int(pid.read_text())}/stat").read_text().split(")")[1]
        ):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the compiler still runs")
    assert not list(place.folder.glob("build-*"))


def test_what_killed_builds_leave_is_removed(place):
    (place.folder / "build-old").mkdir(parents=True)
    (place.folder / "build-old" / "kernel.o").touch()
    assert place.works()
    assert not list(place.folder.glob("build-*"))


def test_threads_and_processes_build_it_once(place):
    errors = []

    def load() -> None:
        try:
            load_library("some", {})
        except NoLibrary as error:
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert place.count == 1


def test_the_folder_of_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert user_cache() == Path("/var/cache")
    monkeypatch.chdir(tmp_path)
    for given in ("", ".", "cache"):  # never the current folder
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert user_cache() == Path("/home/someone/.cache")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == Path("/home/someone/.cache")
    assert fused_folder(monkeypatch) == Path("/home/someone/.cache/torch_extensions/x")


def fused_folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")
    return compiled._folder("x")


def test_every_source_is_named():
    assert {*fused._SOURCES, *fused._HEADERS} == {path.name for path in CSRC.iterdir()}


def test_stray_files_do_not_matter(monkeypatch, tmp_path):
    before = fused.version.__wrapped__()
    copied = Path(shutil.copytree(CSRC, tmp_path / "csrc"))
    (copied / "._simd.h").write_bytes(b"\xff\x00")
    (copied / "window_conv copy.cpp").write_text("int x;")
    (copied / "folder").mkdir()
    monkeypatch.setattr(fused, "_FOLDER", copied)
    assert fused.version.__wrapped__() == before
    with (copied / "simd.h").open("a") as file:
        file.write("\n")
    assert fused.version.__wrapped__() != before


WITHOUT = """
import torch
from torch import nn
from autosample import deploy
from autosample.nn import SummaryConv1d

model = nn.Sequential(SummaryConv1d(64, 256, 32, spec="wsnet", ratio=32)).eval()
fast = deploy(model, torch.randn(1, 64, 500), measure=False)
print(str(fast.deployment).splitlines()[-1])
print(bool(deploy(nn.Linear(2, 2), torch.randn(1, 2), fuse=False).deployment.no_kernel))
"""


@pytest.mark.slow
def test_a_deployed_model_says_that_it_does_without(tmp_path):
    environment = os.environ | {"CXX": "no-such-compiler", "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", WITHOUT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    told, other = done.stdout.splitlines()
    assert told.startswith("Plans are slower without the fused kernel: it needs a C++ compiler")
    assert told.endswith("install g++, or set CXX")
    assert other == "False"
    assert list(tmp_path.iterdir()) == []
