"""A compiled library on disk: built once per machine, checked before it is loaded, with failures remembered.

The folder of a library holds `kernel-DIGEST.so`, whose name is the SHA-256 of its bytes, so a file that was cut off is
found before the system maps it into memory. A build runs in a process of its own, with a time limit.
"""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from autosample.errors import one_line
from autosample.system.files import user_cache, write_bytes, write_json

# Time after which a build is stopped [s]; it usually takes a minute.
_LIMIT = 600.0
# Disk space for a build [bytes].
_SPACE = 32 << 20
# It loads what it has built, so a library that cannot be loaded is a failed build.
_BUILD = "import json, sys; from torch.utils import cpp_extension; cpp_extension.load(**json.loads(sys.argv[1]))"
_AGAIN = "set AUTOSAMPLE_FUSED=retry to try again"


class NoLibrary(Exception):
    """The library cannot be built or loaded; the message is one line with the reason and the fix."""


def load_library(name: str, options: Mapping[str, Any]) -> None:
    """Load a library of operators, and build it first if this machine has none.

    Args:
        name: Name of its folder. It must change with the sources and with everything else that the library depends on.
        options: `sources`, `extra_cflags` and `extra_ldflags` of `torch.utils.cpp_extension.load`.

    Raises:
        NoLibrary: The library cannot be built or loaded.
    """
    try:
        folder = _folder(name)
        path = _verified(folder) or _built(folder, options)
    except OSError as error:
        raise NoLibrary(
            f"it needs a folder that can be written, got {one_line(error)[:150]}: set TORCH_EXTENSIONS_DIR to another"
        ) from error
    try:
        torch.ops.load_library(str(path))
    except OSError as error:  # it could be loaded when it was built
        raise NoLibrary(f"it cannot be loaded ({one_line(error)[:150]}): delete {folder}") from error


def _folder(name: str) -> Path:
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    root = Path(given).expanduser().absolute() if given else user_cache() / "torch_extensions"
    return root / name


def _verified(folder: Path) -> Path | None:
    """The library in a folder, if its bytes are those that were built. Damaged ones are removed."""
    for path in folder.glob("kernel-*.so"):
        with contextlib.suppress(OSError):
            if path.stem == f"kernel-{hashlib.sha256(path.read_bytes()).hexdigest()}":
                return path
            path.unlink()
    return None


def _built(folder: Path, options: Mapping[str, Any]) -> Path:
    import filelock  # torch needs it too

    compiler, failed = _compiler(), folder / "failed.json"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "lock", timeout=_LIMIT):  # freed by the system if its owner is killed
            if (path := _verified(folder)) is not None:
                return path  # another process has just built it
            if (reason := _remembered(failed, compiler)) and os.environ.get("AUTOSAMPLE_FUSED") != "retry":
                raise NoLibrary(f"{reason} (in an earlier process): {_AGAIN}")
            _make_space(folder)
            try:
                path = _compiled(folder, options)
            except NoLibrary as error:
                with contextlib.suppress(OSError):
                    write_json(failed, {"compiler": compiler, "reason": str(error)})
                raise NoLibrary(f"{error}: {_AGAIN}") from error
            failed.unlink(missing_ok=True)
            return path
    except filelock.Timeout as error:
        raise NoLibrary(f"another process has been building it for {_LIMIT:.0f} s: try again later") from error


def _compiler() -> str:
    """What tells the compiler apart from others: its command, path, size and date."""
    command = os.environ.get("CXX") or ("cl" if sys.platform == "win32" else "c++")
    found = shutil.which((shlex.split(command) or [""])[0])
    if found is None:
        raise NoLibrary(f'it needs a C++ compiler, got none called "{command[:80]}": install g++, or set CXX')
    stat = Path(found).stat()
    return f"{command} {Path(found).resolve()} {stat.st_size} {stat.st_mtime_ns}"


def _remembered(failed: Path, compiler: str) -> str:
    """Why the last build with this compiler failed; empty if none did."""
    try:
        known = json.loads(failed.read_text())
        return one_line(known["reason"])[:200] if known["compiler"] == compiler else ""
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _make_space(folder: Path) -> None:
    """Remove what killed builds left, and raise at once if the disk has no space for another one."""
    for left in folder.glob("build-*"):
        shutil.rmtree(left, ignore_errors=True)
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _SPACE)


def _compiled(folder: Path, options: Mapping[str, Any]) -> Path:
    if sys.stderr is not None:
        told = "building the fused kernel, once for this machine (about a minute)"
        print(f"autosample: {told} in {folder}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-", ignore_cleanup_errors=True) as place:
        order = {**options, "name": "kernel", "build_directory": place, "is_python_module": False}
        with Path(place, "log").open("w+", errors="replace") as log:
            _run([sys.executable, "-c", _BUILD, json.dumps(order)], log)
        data = Path(place, f"kernel{'.pyd' if sys.platform == 'win32' else '.so'}").read_bytes()
    path = folder / f"kernel-{hashlib.sha256(data).hexdigest()}.so"
    write_bytes(path, data)
    return path


def _run(command: list[str], log: IO[str]) -> None:
    """Run a build. If it takes too long, it ends with all the processes that it started."""
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]  # ninja lies beside Python
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, "PATH": os.pathsep.join(paths)},
        start_new_session=True,
    )
    try:
        code = process.wait(_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise NoLibrary(f"its build took more than {_LIMIT:.0f} s") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
            process.wait()
    if code:
        log.seek(0)
        raise NoLibrary(f"its build failed ({_reason(log.read()) or f'exit code {code}'})")


def _reason(said: str) -> str:
    """The line of a compiler's output that names the error."""
    lines = [one_line(line) for line in said.splitlines() if line.strip()]
    named = [line for line in lines if "error:" in line.lower()]
    return (named or lines or [""])[0 if named else -1][:150]
