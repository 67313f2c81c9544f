"""Files that the command line names. They are found and checked first: loading data can take minutes."""

from collections.abc import Sequence
from pathlib import Path

from autosample.errors import ConfigError, one_line
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
    """Raise `ConfigError` unless a file is a checkpoint that `autosample fit` wrote."""
    import torch

    if str(path) in ("best", "last", "hpc"):  # keywords of Lightning
        return
    if not path.is_file():
        raise ConfigError(f"a checkpoint must be a file, got {path}: look for *.ckpt in the folder of the run")
    try:
        loaded = torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # torch raises many types of errors for a damaged archive
        raise ConfigError(
            f"the checkpoint {path} cannot be read ({one_line(error)[:200]}): use another copy"
        ) from error
    if not isinstance(loaded, dict) or not {"state_dict", "hyper_parameters"} <= loaded.keys():
        raise ConfigError(f"a checkpoint must be written by `autosample fit`, got {path}: pass another file")
