"""Atomic files: written completely or not at all, even if the process or the machine stops at any moment."""

import contextlib
import itertools
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no fcntl: there, this process alone waits for its threads
    fcntl = None

# age after which a partial file of another machine counts as abandoned [s]
_ABANDONED = 24 * 3600.0
_PARTIAL = re.compile(r"\..+\.(?P<pid>\d+)-\d+\.partial(\.\w+)?")
_number = itertools.count()
_one = threading.Lock()
_open: set[str] = set()  # names of partial files that this process is writing


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file atomically. Missing folders are created.

    Raises:
        OSError: The file cannot be written.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON atomically. Missing folders are created.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to a file atomically. Missing folders are created.

    Raises:
        OSError: The file cannot be written.
    """
    with _replacing(path, "") as partial:
        partial.write_bytes(data)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that the caller writes to. If the block ends without an error, it becomes `path`.

    The temporary name ends with the suffix of `path`, for libraries that read the suffix. After an error the temporary
    file is removed.

    Raises:
        OSError: The file cannot be written, or the block did not write it.
    """
    with _replacing(path, path.suffix) as partial:
        yield partial


@contextmanager
def _replacing(path: Path, suffix: str) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # unique among all machines that share the folder, their processes and threads
    owner = f"{socket.gethostname()}.{os.getpid()}-{next(_number)}"
    partial = path.with_name(f".{path.name}.{owner}.partial{suffix}")
    _open.add(partial.name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        _open.discard(partial.name)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new file names in a folder survive a power failure, if the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other thread or process is in this block for the same folder. Nothing is written for that."""
    if fcntl is None:
        with _one:
            yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot lock a folder
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # frees the lock, as the end of the process does


def sweep_partials(folder: Path) -> None:
    """Remove temporary files that ended processes left in a folder."""
    for path in folder.glob(".*.partial*"):
        found = _PARTIAL.fullmatch(path.name)
        if found is None:
            continue
        here = path.name[: found.start("pid")].endswith(f".{socket.gethostname()}.")
        pid = int(found["pid"])
        try:
            if here:
                dead = path.name not in _open if pid == os.getpid() else not alive(pid)
            else:
                dead = time.time() - path.stat().st_mtime > _ABANDONED
            if dead:
                path.unlink(missing_ok=True)
        except FileNotFoundError:  # another process was faster
            continue


def user_cache() -> Path:
    """The user's folder for caches: `XDG_CACHE_HOME`, if it is an absolute path, or `~/.cache`.

    Raises:
        OSError: The user has no home.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():  # other values must be ignored, says the standard
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError("the user has no home directory") from error


def alive(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
