"""The options of a verb: argparse, but a mistake gives one line that names the fix."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from autosample.errors import ConfigError, hint
from autosample.system.plugins import function

#: Old names of options, with the present ones; errors mention these.
RENAMED = {"summary": "spec", "summary_args": "spec_args"}


class Parser(argparse.ArgumentParser):
    """Options of one verb; `autosample VERB --help` prints them."""

    def __init__(self, verb: str) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"autosample {verb}", allow_abbrev=False, exit_on_error=False, formatter_class=form)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}: see {self.prog} --help")


def add_factory(parser: Parser) -> None:
    """Declare `--factory`, for verbs that load a model; `parse` gives the function."""
    parser.add_argument("--factory", help="MODULE:NAME of the function that a model was saved with")


def parse(args: Sequence[str], declare: Callable[[Parser], None]) -> dict[str, Any]:
    """The values of a verb's options, by name.

    Args:
        args: The words of the command line, the verb first.
        declare: Adds the options to a parser.

    Raises:
        ConfigError: An option is unknown, missing, or has an unusable value.
    """
    parser = Parser(args[0])
    declare(parser)
    try:
        values, unknown = parser.parse_known_args(list(args[1:]))
    except argparse.ArgumentError as error:
        name = (error.argument_name or "").lstrip("-")
        raise ConfigError(f"{name} {error.message}: see {parser.prog} --help") from error
    if unknown:
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            raise ConfigError(f'options need a name, got the value "{name}" alone: write --OPTION {name}')
        raise ConfigError(unknown_option(name.lstrip("-"), [o.lstrip("-") for o in parser._option_string_actions]))
    given = vars(values)
    if given.get("factory"):
        given["factory"] = function(given["factory"])
    return given


def unknown_option(name: str, known: Sequence[str]) -> str:
    """Message for an unknown option."""
    if name in RENAMED:
        return f'option "{name}" is now called "{RENAMED[name]}"'
    return f'no option is called "{name}": {hint(name, [o for o in known if len(o) > 1], otherwise="see --help")}'


def whole(text: str) -> int:
    """A whole number."""
    return _as(int, text, "a whole number")


def number(text: str) -> float:
    """A number."""
    return _as(float, text, "a number")


def number_or_null(text: str) -> float | None:
    """A number, or `null`."""
    return None if text == "null" else _as(float, text, "a number or null")


def flag(text: str) -> bool:
    """`true` or `false`. Declare it with `nargs="?", const=True`: then the name alone means true."""
    return _as({"true": True, "false": False}.__getitem__, text.lower(), "true or false")


def _as(kind: Callable[[str], Any], text: str, wanted: str) -> Any:
    try:
        return kind(text)
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text}") from None


class Several(argparse.Action):
    """Several values after one name (`--input 3 224 224`), or a list (`--input [3,224,224]`).

    Declare it with `nargs="+"` and with the type of one value as `each`.
    """

    def __init__(self, *args: Any, each: Callable[[str], Any] = str, **options: Any) -> None:
        self.each = each
        super().__init__(*args, **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        import yaml

        words = [word for value in values for word in (yaml.safe_load(value) if value.startswith("[") else [value])]
        try:
            setattr(namespace, self.dest, [self.each(str(word)) for word in words])
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error
