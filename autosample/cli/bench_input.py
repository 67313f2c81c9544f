"""`bench input`: how fast the data of a config are read, or read and trained on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from autosample.cli.bench import DTYPES, device_of, dtype_of, surroundings
from autosample.cli.explain import explain, original
from autosample.cli.options import Parser, parse, whole
from autosample.data import ClassificationData
from autosample.errors import ConfigError
from autosample.experiments.bench.loading import Reading, measure_input, measure_steps
from autosample.model.recipe import Recipe
from autosample.system.configs import read
from autosample.system.files import write_json
from autosample.system.tables import make_table


def declare(parser: Parser) -> None:
    """Declare the options of `bench input`."""
    parser.description = (
        "Count examples a second from disk to device, against plain torchvision and timm on the same files, in turn.\n"
        "Options of the data follow as for fit: autosample bench input --config experiment/imagenet_resnet50 "
        "--data.root DIR"
    )
    add = parser.add_argument
    add(
        "--config",
        action="append",
        default=[],
        help="config such as experiment/imagenet_resnet50, or several",
    )
    add("--batches", type=whole, default=16, help="batches of a pass (16)")
    add("--rounds", type=whole, default=15, help="maximum number of passes of each side (15)")
    add("--step", action="store_true", help="with steps of training of the config's net, against its dense twin")
    add("--dtype", default="float32", help=f"for --step: {' or '.join(DTYPES)} (float32)")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--out", type=Path, default=Path("runs/bench"), help="folder for the record (runs/bench)")


def main(args: Sequence[str]) -> None:
    """Measure, print a table and write a JSON record.

    Raises:
        AutosampleError: An option or the data are not usable.
    """
    mine, about = _split(args[2:])
    given = parse(["bench input", *mine], declare)
    for name in ("batches", "rounds"):
        if given[name] < 1:
            raise ConfigError(f"{name} must be at least 1, got {given[name]}: leave it out for the default")
    options = {"batches": given["batches"], "rounds": given["rounds"], "device": device_of(given["device"])}
    dtype, configs = dtype_of(given["dtype"]), [read(name) for name in given["config"]]
    recipe, data = _recipe(configs) if given["step"] else None, _data(configs, about)
    if recipe is not None:
        suite, (sides, facts) = "step", measure_steps(data, recipe, **options, dtype=dtype)
    else:
        suite, (sides, facts) = "input", measure_input(data, **options)
    kind = getattr(data, "set_name", "").partition("/")[0]
    path = given["out"] / f"{suite}-{'-'.join(filter(None, (type(data).__name__, kind)))}.json"
    record = {"suite": suite, **surroundings(["autosample", *args], given["device"]), **facts}
    write_json(path, {**record, "rows": [side.to_dict() for side in sides]})
    console = Console(width=None if Console().is_terminal else 200)
    console.print(_table(suite, sides, facts))
    if facts["note"]:
        console.print(facts["note"])
    console.print(f"written: {path}")


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of this verb, and those about the data."""
    mine: list[str] = []
    about: list[str] = []
    now = mine
    for word in words:
        if word.startswith("-"):
            now = about if word.partition("=")[0].partition(".")[0] == "--data" else mine
        now.append(word)
    return mine, about


def _recipe(configs: Sequence[Mapping[str, Any]]) -> Recipe:
    """The net of the configs; later ones override earlier ones."""
    merged = {name: value for config in configs for name, value in config.get("model", {}).items()}
    recipe = Recipe.of(merged)
    if recipe.preset == "dense":
        raise ConfigError("--step compares a net with its dense twin, got spec dense: pass --config spec/folded")
    return recipe


def _data(configs: Sequence[Mapping[str, Any]], words: Sequence[str]) -> ClassificationData:
    named = [config["data"] for config in configs if "data" in config]
    if not named and not any(word.partition("=")[0] in ("--data", "--data.class_path") for word in words):
        raise ConfigError("bench input needs a data set, got none: pass --config CONFIG, or --data CLASS")
    first = [f"--data={one if isinstance(one, str) else json.dumps(one)}" for one in named[-1:]]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClassificationData, "data", fail_untyped=False, required=True)
    try:
        return parser.instantiate(parser.parse_args([*first, *words])).data
    except (ArgumentError, ValueError) as error:
        if (own := original(error)) is not None:
            raise own from error
        raise ConfigError(explain(error, [*parser.get_defaults().keys(), "data"])) from error


def _table(suite: str, sides: Sequence[Reading], facts: Mapping[str, Any]) -> Any:
    cells = []
    for side in sides:
        ratio = side.speed_up
        told = f"{ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else ""
        cells.append([side.side, f"{side.median:,.0f}", f"{side.low:,.0f}-{side.high:,.0f}", told])
    title = f"{suite}, {facts['examples']:,} examples, batch {facts['batch_size']}, {facts['num_workers']} workers"
    heads = ("side", "examples a second", "quartiles", f"{sides[0].side} is faster")
    return make_table(heads, cells, left=("side",), title=title)
