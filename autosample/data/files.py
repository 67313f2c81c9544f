"""Files of users before they are decoded: what may be read, and how messages show their names."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from autosample.errors import DataError, one_line

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True)
class Limits:
    """What a file may hold. It is checked before the file is decoded.

    Args:
        max_pixels: height × width of an image [pixels]; the default is Pillow's.
        max_seconds: length of a sound [s]. Only the part that a clip needs is read.
        max_bytes: size of the file [bytes].

    Raises:
        DataError: A limit is not a positive number.
    """

    max_pixels: int = 89_478_485
    max_seconds: float = 86_400.0
    max_bytes: int = 2**32

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise DataError(f"{name} must be above 0, got {value}: leave it out for {getattr(Limits, name)}")


#: the limits if the user sets none
DEFAULT = Limits()


def shown(text: object, most: int = 100) -> str:
    """A name from outside on one line: odd characters are escaped, and of a long name only the end is kept."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return line if len(line) <= most else "…" + line[1 - most :]


def reason(error: Exception) -> str:
    """Why a file could not be read, without its path, which messages name already."""
    said = getattr(error, "strerror", None) or one_line(error).rpartition(": ")[2] or type(error).__name__
    return shown(said)


def require_file(path: str | Path, max_bytes: int) -> int:
    """Check a file before it is opened. A pipe would wait for ever.

    Returns:
        Its size [bytes].

    Raises:
        DataError: It is missing, empty, larger than `max_bytes`, or not a file.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a `Path` takes longer than the call
    except (OSError, ValueError) as error:
        raise _unreadable(path, reason(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise _unreadable(path, _KINDS.get(stat.S_IFMT(found.st_mode), "a device"))
    if not found.st_size:
        raise _unreadable(path, "an empty file")
    if found.st_size > max_bytes:
        raise DataError(
            f"{shown(path)}: a file may have {max_bytes:,} bytes, got {found.st_size:,}: pass a larger max_bytes"
        )
    return found.st_size


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there and can be reached. `Path.is_dir` raises some errors."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: str | Path) -> bool:
    """The same for a file."""
    return stat.S_ISREG(_mode(path))


def _mode(path: str | Path) -> int:
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):
        return 0


def _unreadable(path: str | Path, got: str) -> DataError:
    return DataError(f"{shown(path)}: not a readable file, it must be a file with content, got {got}: check the path")
