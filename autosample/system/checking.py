"""Checks of data from outside. Each returns its argument, or raises an error that says what was expected."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from autosample.errors import DAMAGED, ArtifactError, hint

_DEEPEST = 16


def _fail(where: str, wanted: str, got: Any, fix: str = DAMAGED) -> NoReturn:
    raise ArtifactError(f"{where} must be {wanted}, got {repr(got)[:80]}: {fix}")


def as_map(value: Any, where: str, fix: str = DAMAGED) -> Mapping[str, Any]:
    """A mapping whose keys are text."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        _fail(where, "a mapping with text as keys", value, fix)
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        _fail(where, "a list", value)
    return value


def as_text(value: Any, where: str) -> str:
    """Text."""
    if not isinstance(value, str):
        _fail(where, "text", value)
    return value


def as_int(value: Any, where: str, least: int, most: int = 2**48) -> int:
    """A whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        _fail(where, f"a whole number from {least} to {most}", value)
    return value


def as_float(value: Any, where: str) -> float:
    """A finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        _fail(where, "a finite number", value)
    return float(value)


def as_plain(value: Any, where: str, fix: str = DAMAGED, depth: int = 0) -> Any:
    """JSON data with finite numbers and limited nesting. Tuples become lists."""
    if depth > _DEEPEST:
        raise ArtifactError(f"{where[:80]} must be nested at most {_DEEPEST} deep, got more: {fix}")
    if isinstance(value, Mapping):
        items = as_map(value, where, fix).items()
        return {key: as_plain(item, f"{where}.{key}", fix, depth + 1) for key, item in items}
    if isinstance(value, list | tuple):
        return [as_plain(item, where, fix, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        _fail(where, "a finite number", value, fix)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    _fail(where, "plain data (text, numbers, lists, mappings)", value, fix)


def take(data: Mapping[str, Any], where: str, names: Iterable[str]) -> Mapping[str, Any]:
    """A mapping that has exactly the fields `names`."""
    known = list(names)
    for name in data:
        if name not in known:
            raise ArtifactError(f"{where} has an unknown field {name[:80]!r}: {hint(name[:80], known)}")
    for name in known:
        if name not in data:
            raise ArtifactError(f"{where} lacks the field {name!r}: {DAMAGED}")
    return data
