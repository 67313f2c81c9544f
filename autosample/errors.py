"""How autosample fails: one family of errors, each message stating the rule, what was got, and the fix."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class AutosampleError(ValueError):
    """Base of every error raised on purpose by autosample.

    Messages are one line: the rule that was broken, what was got, and what to do about it. The command line prints
    them as they are and exits with code 2.
    """


class SpecError(AutosampleError):
    """A `Spec`, a preset name or one of their fields is not usable."""


class ConversionError(AutosampleError):
    """A model cannot be converted, or is not in the state that the call needs."""


class NothingToConvert(ConversionError):
    """No layer of a model would become smaller by a conversion."""


class QuantizationError(AutosampleError):
    """A model cannot be quantised as asked."""


class ArtifactError(AutosampleError):
    """A saved model is damaged, of another version, or not what it should be; or a model cannot be saved."""


class DataError(AutosampleError):
    """A data set is missing, empty, unreadable, or does not fit the model."""


class ExportError(AutosampleError):
    """A model cannot be written for another runtime, or what was written is not right."""


class MissingExtra(AutosampleError, ImportError):
    """A package that belongs to an extra of autosample is not installed."""


class ConfigError(AutosampleError):
    """A configuration or checkpoint given to the training side is not usable."""


def one_line(text: object) -> str:
    """`text` with all runs of white space, line ends among them, turned into single spaces."""
    return " ".join(str(text).split())


def closest(got: str, known: Iterable[str]) -> list[str]:
    """The names in `known` that `got` may be a mistyping of: at most two, the nearest first; none if none is near."""
    folded = {name.lower(): name for name in sorted(known)}
    return [folded[name] for name in get_close_matches(got.lower(), folded, n=2, cutoff=0.55)]


def hint(got: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """What an error message suggests instead of `got`, such as `did you mean "wsnet"?`.

    Args:
        got: What was given.
        known: What could have been given.
        otherwise: The suggestion where nothing is near; by default the list of all that is known.
    """
    names = list(known)
    fallback = f"known: {', '.join(sorted(names))}" if otherwise is None else otherwise
    return did_you_mean(closest(got, names)) or fallback


def did_you_mean(names: Sequence[str]) -> str:
    """`did you mean "a" or "b"?`; empty without names."""
    return "did you mean " + " or ".join(f'"{name}"' for name in names) + "?" if names else ""
