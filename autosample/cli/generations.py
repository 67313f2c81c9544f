"""The verb `generations`: born-again networks, each of which learns from the one before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autosample.cli.options import Parser, parse, whole
from autosample.errors import ConfigError

_HEADS = ("net", "test accuracy [%]", "stored bytes")


def declare(parser: Parser) -> None:
    """Declare the options of `generations`."""
    parser.description = (
        "Train generations of a net: each one learns from the one before, with another seed (Furlanello et al. 2018).\n"
        "All other options are those of `fit`: autosample generations --count 3 --config experiment/digits --out DIR.\n"
        "Finished generations are kept, and one that was stopped goes on."
    )
    add = parser.add_argument
    add("--count", type=whole, default=3, help="generations that learn from another one (3)")
    add("--out", type=Path, default=Path("runs/generations"), help="folder of the generations (runs/generations)")
    add("--loss", default="ban", help="ban, ban+l, cwtm, dkpp, or a share such as 0.7, as for --model.distill (ban)")
    add("--teacher", help="what the first one learns from; without it, a generation 0 learns from the labels alone")
    add("--seed", type=whole, default=0, help="seed of generation 0; each one has its own (0)")


def main(args: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        AutosampleError: An option is not usable, or a training failed.
    """
    own, rest = _split(args[1:])
    given = parse([args[0], *own], declare)
    generations(rest, **given)


def generations(options: Sequence[str], count: int, **given: Any) -> None:
    """Train, and print a table. For the options see `declare`; `options` are those of `fit`."""
    if count < 1:
        raise ConfigError(f"count must be at least 1, got {count}: leave it out for 3")
    for name in ("trainer.default_root_dir", "seed_everything", "ckpt_path", "model.teacher", "model.distill"):
        if any(word.partition("=")[0] == f"--{name}" for word in options):
            raise ConfigError(
                f"generations sets {name} itself, got another one: use --out, --seed, --teacher or --loss"
            )
    from rich.console import Console

    from autosample.cli.fit import run
    from autosample.experiments.generations import Generations
    from autosample.system.tables import make_table

    def fit(words: list[str]) -> Any:
        done = run(["fit", *options, *words])
        if done.trainer.world_size > 1:
            raise ConfigError(f"generations needs one process, got {done.trainer.world_size}: pass --trainer.devices 1")
        return done.datamodule

    chain = Generations(count=count, **given)
    chain.train(fit)
    rows = [(row["net"], f"{row['accuracy']:.2f}", f"{row['stored_bytes']:,}") for row in chain.results()]
    Console().print(make_table(_HEADS, rows, left=("net",)))
    print(f"saved models and results.json are in {chain.out}")


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of this verb's own options, and those of `fit`."""
    parser = Parser("generations")
    declare(parser)
    names, own, rest = set(parser._option_string_actions), [], []
    target = rest
    for word in words:
        if word.startswith("-"):
            target = own if word.partition("=")[0] in names else rest
        target.append(word)
    return own, rest
