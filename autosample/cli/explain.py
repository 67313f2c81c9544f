"""Messages of Lightning's parser (jsonargparse) about a mistake, as one line that names the fix."""

import importlib
import re
from collections.abc import Iterable

from autosample.cli.options import RENAMED
from autosample.errors import AutosampleError, closest, hint, one_line

_UNKNOWN = re.compile(r"(?i)(?:unrecognized arguments?: -*|does not accept option '|Option ')([\w.+]*)")
_INSIDE = re.compile(r"given class_path '([\w.]+)'")
_NO_CLASS = re.compile(
    r"dot import path string: ([\w.]+)|not correspond to a subclass.*'class_path': '([\w.]+)'|"
    r"not correspond to a subclass.*Given value: ([\w.]+)"
)
_KEY = re.compile(r'Parser key "([\w.]+)"')
_WANTED = re.compile(r"Expected a <class '([\w.]+)'>")
_WORDS = re.compile(r"Expected a typing\.Literal\[([^]]*)\]")
_VALUE = re.compile(r"(?:Got value:|Given value:) (\S+)")
_SPOKEN = {"NoneType": "null", "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
# modules of the classes that users may give by name alone, by the start of the option
_CLASSES = {
    "data": "autosample.data",
    "trainer.logger": "pytorch_lightning.loggers",
    "trainer.callbacks": "pytorch_lightning.callbacks",
}


def explain(error: Exception, options: Iterable[str]) -> str:
    """One line for an `ArgumentError`.

    Args:
        error: Error that the parser raised.
        options: Names of all options, without dashes.
    """
    text = one_line(error)
    inside = _INSIDE.search(text)
    if unknown := _UNKNOWN.search(text):
        name = unknown[1].split("=")[0]
        if inside:
            known = _options_of(inside[1])
            return f'{inside[1].rpartition(".")[2]} has no option "{name}": {hint(name, known)}'
        if "--" not in text and "unrecognized" in text:
            return f'options need a name, got the value "{name}" alone: write --OPTION {name}'
        return _unknown(name, options)
    keys = _KEY.findall(text)
    if keys and (missing := _NO_CLASS.search(text)):
        name = next(filter(None, missing.groups()))
        return f'{keys[0]} must name a class, got "{name}": {_near_class(keys[0], name)}'
    if keys and (wanted := _WANTED.findall(text)):
        key = keys[0] if len(keys) == 1 else f"{keys[0]}.{keys[-1]}"
        values = _VALUE.findall(text)
        if len(keys) == 1 and values and (lists := _WORDS.findall(text)):
            words = dict.fromkeys(word.strip(" '\"") for found in lists for word in found.split(","))
            return f"{key} must be one of {', '.join(words)}, got {values[-1]}: {hint(values[-1], words, 'see --help')}"
        # the reasons of an outer key end with "Expected … None", which does not apply to an inner key
        kinds = dict.fromkeys(_SPOKEN.get(w, f"a {w}") for w in (wanted if len(keys) == 1 else wanted[:1]))
        got = (values[-1] if len(keys) == 1 else values[0]) if values else "something else"
        return f"{key} must be {' or '.join(kinds)}, got {got}: see --help"
    if bare := re.search(r"argument (?:-\w/)?(--[\w.]+): expected one argument", text):
        return f"{bare[1]} needs a value, got none: see --help"
    if required := re.search(r"following arguments are required: (.*)", text):
        return f"these options are required: {required[1]}: see --help"
    return text[:500]


def original(error: BaseException) -> AutosampleError | None:
    """The `AutosampleError` that caused `error`, or `None`."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, AutosampleError):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None


def _unknown(name: str, options: Iterable[str]) -> str:
    """Message for an unknown option. It lists no options if none is near: there are too many."""
    parts = name.split(".")
    if len(parts) > 1 and parts[1] in RENAMED:
        return f'option "{name}" is now called "{".".join([parts[0], RENAMED[parts[1]], *parts[2:]])}"'
    known = set(options)
    if not closest(name, known):  # perhaps only the part before the last dot is wrong
        known = {option for option in known if option.rpartition(".")[2] == name.rpartition(".")[2]}
    text = hint(name, known)
    return f'no option is called "{name}": {text if known and len(text) < 200 else "see --help"}'


def _near_class(key: str, name: str) -> str:
    module = next((module for start, module in _CLASSES.items() if key.startswith(start)), None)
    if module is None:
        return "write its full path, such as package.module.Class"
    found = importlib.import_module(module)
    sets = getattr(found, "DATASETS", None)
    classes = sets or [n for n in getattr(found, "__all__", dir(found)) if isinstance(getattr(found, n), type)]
    return f"{hint(name, classes)} (or write the full path of your own)"


def _options_of(class_path: str) -> list[str]:
    """Names of the arguments of a class and of its bases."""
    from jsonargparse import ArgumentParser

    module, _, name = class_path.rpartition(".")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(importlib.import_module(module), name), fail_untyped=False)
    return list(parser.get_defaults().keys())
