"""Modules of the user's, imported for what they register: nets, data sets, rules."""

import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from autosample.errors import ConfigError

#: Environment variable with the modules' names, separated by commas, so that processes started later import them too.
VARIABLE = "AUTOSAMPLE_IMPORT"


def import_modules(names: Iterable[str] = ()) -> None:
    """Import modules by name, and those that `VARIABLE` names; the current folder is searched too.

    Raises:
        ConfigError: There is no such module.
    """
    known = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    wanted = list(dict.fromkeys([*known, *names]))
    if not wanted:
        return
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    for name in wanted:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and misses another one
            raise ConfigError(
                f"--import needs a module that Python finds, got {name}: write it without .py, and run from its folder"
            ) from error
    os.environ[VARIABLE] = ",".join(wanted)


def function(place: str) -> Callable[..., Any]:
    """The function at `MODULE:NAME`; the module is imported as by `import_modules`.

    Raises:
        ConfigError: There is no such function.
    """
    module, colon, name = place.partition(":")
    if colon:
        import_modules([module])
    found = getattr(sys.modules.get(module), name, None) if colon else None
    if not callable(found):
        raise ConfigError(f"--factory needs a function as MODULE:NAME, got {place}: write mynets:make")
    return found
