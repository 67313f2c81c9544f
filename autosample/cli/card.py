"""The verb `card`: the model card of a saved model."""

from collections.abc import Sequence
from pathlib import Path

from autosample.cli.options import Parser, add_factory, flag, parse
from autosample.errors import ArtifactError


def declare(parser: Parser) -> None:
    """Declare the options of `card`."""
    parser.description = "Print the model card of a saved model."
    parser.add_argument("path", type=Path, help="folder of the saved model")
    parser.add_argument("--write", nargs="?", const=True, default=False, type=flag, help="write it to README.md too")
    add_factory(parser)


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    given = parse(args, declare)
    path = given["path"]
    if not path.is_dir():
        raise ArtifactError(f"card needs the folder of a saved model, got {path}: check the path")
    from autosample.artifact.card import card_text
    from autosample.artifact.files import write_card
    from autosample.artifact.loading import load_any
    from autosample.model.report import report

    model, config = load_any(path, factory=given["factory"])
    text = card_text(config, report(model))
    print(text, end="")
    if given["write"]:
        write_card(path, text)
