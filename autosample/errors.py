"""Errors of autosample. Each message names the rule, what was given, and the fix."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

#: the fix in messages about a damaged file
DAMAGED = "the file is damaged, use another copy"
#: largest length of a message; of a longer one, the first and the last characters stay: the rule and the fix
LONGEST = 300
_FIRST, _LAST = 160, 137


class AutosampleError(ValueError):
    """Base class of all errors that autosample raises.

    Messages are one line of at most `LONGEST` characters: the rule that was broken, what was given, and how to fix it.
    Whatever text a file brings into a message, it cannot get longer, and nothing in it controls a terminal. The command
    line prints messages unchanged and exits with code 2.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(brief(part) if isinstance(part, str) else part for part in args))


class AutosampleWarning(UserWarning):
    """What autosample warns of; warnings of other libraries have other categories."""


class SpecError(AutosampleError):
    """A `Spec`, a preset name or one of their fields is not usable."""


class ConversionError(AutosampleError):
    """A model cannot be converted, or is not in the state that the call requires."""


class NothingToConvert(ConversionError):
    """A conversion would make no layer of a model smaller."""


class QuantizationError(AutosampleError):
    """A model cannot be quantised as requested."""


class ArtifactError(AutosampleError):
    """A saved model is damaged, has another version, or is not valid; or a model cannot be saved."""


class DataError(AutosampleError):
    """A data set is missing, empty, unreadable, or does not fit the model."""


class ExportError(AutosampleError):
    """A model cannot be written for another runtime, or the written file is wrong."""


class MissingExtra(AutosampleError, ImportError):
    """A package that belongs to an extra of autosample is not installed."""


class TrainingError(AutosampleError):
    """A training cannot go on: its numbers are not finite, or a batch does not fit the net."""


class ConfigError(AutosampleError):
    """A configuration or a checkpoint is not usable."""


def one_line(text: object) -> str:
    """`text` on one line, with single spaces."""
    return " ".join(str(text).split())


def brief(text: str) -> str:
    """`text` on one line of at most `LONGEST` characters, all of them printable."""
    if len(text) <= LONGEST and text.isprintable():
        return text
    line = one_line(text if len(text) <= 4 * LONGEST else f"{text[: 2 * LONGEST]} … {text[-2 * LONGEST :]}")
    line = "".join(sign if sign.isprintable() else "?" for sign in line)
    return line if len(line) <= LONGEST else f"{line[:_FIRST]} … {line[-_LAST:]}"


def closest(got: str, known: Iterable[str]) -> list[str]:
    """The names in `known` that `got` may be a typing error of: at most two, the nearest first."""
    folded = {name.lower(): name for name in sorted(known)}
    return [folded[name] for name in get_close_matches(got.lower(), folded, n=2, cutoff=0.55)]


def hint(got: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """The suggestion of an error message instead of `got`, such as `did you mean "wsnet"?`.

    Args:
        got: The name that was given.
        known: The known names.
        otherwise: The suggestion if no name is near; by default the list of all known names.
    """
    names = list(known)
    fallback = f"known: {', '.join(sorted(names))}" if otherwise is None else otherwise
    return did_you_mean(closest(got, names)) or fallback


def did_you_mean(names: Sequence[str]) -> str:
    """`did you mean "a" or "b"?`; empty without names."""
    return "did you mean " + " or ".join(f'"{name}"' for name in names) + "?" if names else ""
