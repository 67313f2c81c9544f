"""Files that the command line names. They are found and checked first: loading data can take minutes."""

from collections.abc import Sequence
from pathlib import Path

from autosample.system.configs import find, read

_CONFIG = ("--config", "-c")


def values_of(names: Sequence[str], args: Sequence[str]) -> list[str]:
    """The values given for these options, in order. Both `--config a` and `--config=a` count."""
    found = []
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in names:
            found += [value] if equals else args[i + 1 : i + 2]
    return found


def with_files(args: Sequence[str]) -> list[str]:
    """The command line, with names of configurations replaced by their paths. Each file is read once as a check.

    Raises:
        ConfigError: A configuration does not exist or is not usable.
    """
    words = list(args)
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name not in _CONFIG:
            continue
        if equals:
            words[i] = f"{name}={_checked(value)}"
        elif i + 1 < len(words):
            words[i + 1] = _checked(words[i + 1])
    return words


def _checked(name: str) -> str:
    read(name)
    return str(find(name))


def check_checkpoint(path: Path) -> None:
    """Raise `ArtifactError` unless a file is a checkpoint that `autosample fit` wrote."""
    from autosample.artifact.checkpoint import read_checkpoint

    if str(path) not in ("best", "last", "hpc"):  # keywords of Lightning
        read_checkpoint(path, "meta")
