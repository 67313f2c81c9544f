"""Checks of a spec's fields and of rules' options: each passes or raises `SpecError`."""

import math
from collections.abc import Iterable
from typing import Any, NoReturn

from autosample.errors import SpecError, hint

#: a setting that may also be a whole number
Number = int | float


def fail(rule: str, got: object, fix: str) -> NoReturn:
    """Raise a `SpecError`."""
    raise SpecError(f"{rule}, got {got!r}: {fix}")


def is_number(value: Any) -> bool:
    """Whether it is a finite number (booleans are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any, least: int) -> bool:
    """Whether it is a whole number of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: Any, *, least: int, fix: str) -> None:
    """`None`, or a whole number of at least `least`."""
    if value is not None and not is_whole(value, least):
        fail(f"{name} must be a whole number of at least {least}", value, fix)


def check_number(name: str, value: Any, *, fix: str, least: Number | None = None, above: Number | None = None) -> None:
    """`None`, or a finite number of at least `least`, or above `above`."""
    low, word = (least, "of at least") if above is None else (above, "above")
    assert low is not None
    if value is not None and not (is_number(value) and (value >= low if above is None else value > low)):
        fail(f"{name} must be a number {word} {low:g}", value, fix)


def check_share(name: str, value: Any, *, fix: str) -> None:
    """A number from 0 to 1."""
    if not (is_number(value) and 0 <= value <= 1):
        fail(f"{name} must be between 0 and 1", value, fix)


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """One of the known words."""
    words = list(known)
    if value not in words:
        fail(f"{name} must be one of {', '.join(words)}", value, hint(str(value), words))
