"""Files are there whole or not at all."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from autosample.system.files import sweep_partials, whole, write_bytes, write_json, write_text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_written_is_read_again(tmp_path):
    write_text(tmp_path / "new" / "folder" / "a.txt", "é\n")
    assert (tmp_path / "new/folder/a.txt").read_bytes() == "é\n".encode()
    write_bytes(tmp_path / "b", b"old")
    write_bytes(tmp_path / "b", b"new")
    assert (tmp_path / "b").read_bytes() == b"new"
    write_json(tmp_path / "c.json", {"x": [1, None]})
    assert json.loads((tmp_path / "c.json").read_text()) == {"x": [1, None]}
    with whole(tmp_path / "d.npy") as partial:
        assert (partial.parent, partial.suffix) == (tmp_path, ".npy")
        assert not (tmp_path / "d.npy").exists()
        partial.write_bytes(b"1")
    assert names(tmp_path) == {"new", "b", "c.json", "d.npy"}


def test_others_may_read_it_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
        with whole(tmp_path / "b") as partial:
            partial.write_text("")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o640, 0o640]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "a", "old")

    def fail(path: Path) -> None:
        with whole(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        fail(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == {"a"}


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole(tmp_path / "a"):
        pass
    assert not names(tmp_path)


def test_temporary_files_of_dead_processes_are_removed(tmp_path):
    host = socket.gethostname()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    kept = {
        f".a.json.{host}.{int(dead.stdout)}-0.partial": False,
        f".a.png.{host}.{int(dead.stdout)}-12.partial.png": False,
        f".a.json.{host}.{os.getpid()}-9999.partial": False,  # ours, but not being written
        f".a.json.{host}.{os.getppid()}-0.partial": True,
        ".a.json.elsewhere.1-0.partial": True,
        "odd.partial": True,
        ".odd.partial": True,
    }
    for name in kept:
        (tmp_path / name).write_text("{")
    with whole(tmp_path / "b") as partial:
        partial.write_text("")
        sweep_partials(tmp_path)
        assert partial.exists()
    assert names(tmp_path) == {name for name, stays in kept.items() if stays} | {"b"}
    os.utime(tmp_path / ".a.json.elsewhere.1-0.partial", (0, 0))
    sweep_partials(tmp_path)
    assert ".a.json.elsewhere.1-0.partial" not in names(tmp_path)
