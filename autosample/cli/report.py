"""The verb `report`: what a model would store."""

import sys
from collections.abc import Sequence
from pathlib import Path

from autosample.cli.options import Parser, Several, number_or_null, parse, whole


def declare(parser: Parser) -> None:
    """Declare the options of `report`."""
    parser.description = "Print what a model stores, layer by layer."
    add = parser.add_argument
    add("model", help="name of a net of timm or autosample")
    add("--spec", default="autosample", help="preset (autosample)")
    add("--ratio", type=number_or_null, default=8, help="dense weights per stored number, or null (8)")
    add("--num_classes", type=whole, default=10, help="number of classes (10)")
    add("--in_chans", type=whole, help="input channels (default: the net's own)")
    add(
        "--input",
        nargs="+",
        action=Several,
        each=whole,
        help="shape of one example, without the batch, to count multiply-adds (default: the net's own)",
    )
    add("--include", nargs="+", action=Several, help="convert only the layers that these patterns match")
    add("--exclude", nargs="+", action=Several, help="leave the layers dense that these patterns match")
    add("--out", type=Path, help="folder for report.json, report.csv and report.md")


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    given = parse(args, declare)
    import torch
    from rich.console import Console

    from autosample.model.recipe import Recipe
    from autosample.model.report import report, save_report

    out, shape = given.pop("out"), given.pop("input")
    ratio = {} if given["ratio"] is None else {"ratio": given["ratio"]}
    names = ("model", "num_classes", "in_chans", "include", "exclude")
    net = Recipe(spec={"preset": given["spec"], **ratio}, **{name: given[name] for name in names}).build()
    shape = shape or list(getattr(net, "pretrained_cfg", {}).get("input_size", ()))
    result = report(net, torch.zeros(1, *shape) if shape else None)
    Console(width=None if sys.stdout.isatty() else 160).print(result)
    if out is not None:
        save_report(result, out)
