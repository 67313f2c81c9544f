"""The verb `report`: what a model would store."""

import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autosample.cli.options import Parser, Several, number, number_or_null, parse, whole


def declare(parser: Parser) -> None:
    """Declare the options of `report`."""
    parser.description = "Print what a model stores, layer by layer."
    add = parser.add_argument
    add("model", help="name of a net of timm or autosample")
    add("--spec", default="autosample", help="preset (autosample)")
    add("--ratio", type=number_or_null, default=SUPPRESS, help="dense weights per stored number, or null (8)")
    add("--bytes", type=number, help="largest size of the model, instead of a ratio")
    add("--latency", type=number, help="largest time of a forward pass of the deployed model [ms], instead of a ratio")
    add("--multiplications", type=number, help="most multiplications of a forward pass, instead of a ratio")
    add("--planned_bits", type=whole, default=32, help="planned bits per stored number; --bytes counts with them (32)")
    add("--num_classes", type=whole, default=10, help="number of classes (10)")
    add("--in_chans", type=whole, help="input channels (default: the net's own)")
    add(
        "--input",
        nargs="+",
        action=Several,
        each=whole,
        help="shape of one example, without the batch, for latency and operations (default: the net's own)",
    )
    add("--include", nargs="+", action=Several, help="convert only the layers that these patterns match")
    add("--exclude", nargs="+", action=Several, help="leave the layers dense that these patterns match")
    add("--out", type=Path, help="folder for report.json, report.csv and report.md")


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    given = parse(args, declare)
    import torch
    from rich.console import Console

    from autosample.budget.recipes import within
    from autosample.model.recipe import Recipe
    from autosample.model.report import report, save_report

    out, shape = given.pop("out"), given.pop("input")
    asked = {name: given[name] for name in ("bytes", "latency", "multiplications")}
    ratio = given.get("ratio", 8 if all(value is None for value in asked.values()) else None)
    names = ("model", "num_classes", "in_chans", "include", "exclude", "planned_bits")
    recipe = Recipe(spec={"preset": given["spec"], "ratio": ratio}, **{name: given[name] for name in names})
    if not shape:
        with torch.device("meta"):
            shape = list(getattr(recipe.bare(), "pretrained_cfg", {}).get("input_size", ()))
    sized, budget = within(recipe, **asked, shape=shape)
    result = replace(report(sized.build(), torch.zeros(1, *shape) if shape else None), budget=budget)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(result)
    if note := result._note():
        console.print(note, soft_wrap=True)
    if out is not None:
        save_report(result, out)
