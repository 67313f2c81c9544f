"""The verb `quickstart`: compare presets in a few minutes, on bundled data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autosample.cli.options import Parser, number, parse, whole
from autosample.errors import ConfigError

METHODS = ("dense", "wsnet", "folded", "autosample")
_HEADS = ("method", "accuracy [%]", "stored bytes", "smaller", "time [ms]", "faster", "seconds per run")


def declare(parser: Parser) -> None:
    """Declare the options of `quickstart`."""
    parser.description = (
        "Train a small net on bundled digits, dense and with three presets, and compare accuracy, bytes and the time "
        "of the deployed net for one image. Finished runs are kept: running it again trains only the missing ones."
    )
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("runs/quickstart"),
        help="folder for records, results.json and pictures (runs/quickstart)",
    )
    add("--model", default="digitnet", help="name of a net of timm or autosample (digitnet)")
    add("--ratio", type=number, default=16, help="dense weights per stored number in each converted layer (16)")
    add("--epochs", type=whole, default=12, help="epochs per run (12)")
    add("--seeds", type=whole, default=3, help="runs per preset, each with its own seed (3)")
    add("--image_size", type=whole, default=8, help="height and width of the scaled digits, in pixels (8)")


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    quickstart(**parse(args, declare))


def quickstart(out: Path, model: str, ratio: float, epochs: int, seeds: int, image_size: int) -> None:
    """Train and compare. For the options see `declare`.

    Raises:
        ConfigError: A count is below 1, a run failed, or a record in `out` is damaged.
        SpecError: The ratio is not usable.
    """
    for name, count in (("epochs", epochs), ("seeds", seeds), ("image_size", image_size)):
        if count < 1:
            raise ConfigError(f"{name} must be at least 1, got {count}: leave it out for the default")
    from autosample.experiments.ablate import default_console, inline_runner, run_grid
    from autosample.experiments.collect import rows, write_tables
    from autosample.experiments.figures import draw
    from autosample.experiments.latency import with_latencies
    from autosample.experiments.parse import make_grid
    from autosample.system.tables import make_table

    grid = make_grid(_settings(model, ratio, epochs, seeds, image_size))
    console = default_console()
    records = run_grid(grid, out, inline_runner(), console)
    if len(records) < len(grid.cells):
        raise ConfigError(f"{len(grid.cells) - len(records)} of {len(grid.cells)} runs failed: see {out}/failed")
    records = with_latencies(grid, records, (1, image_size, image_size))
    write_tables(grid, records, out)
    draw(grid, records, out)
    dense, *others = rows(grid, records)
    cells = [_cells(row, dense) for row in (dense, *others)]
    console.print(make_table(_HEADS, cells, left=("method",), title=grid.title))
    console.print(f"results.json, accuracy.png and windows-*.png are in {out}")


def _settings(model: str, ratio: float, epochs: int, seeds: int, image_size: int) -> dict[str, Any]:
    """The grid, as a file would describe it."""
    return {
        "name": "quickstart",
        "title": f"{model} on Digits, {seeds} seeds, {epochs} epochs",
        "data": {"class": "Digits", "image_size": image_size, "batch_size": 64, "padding": 1},
        "model": {"name": model, "num_classes": 10, "in_chans": 1},
        "train": {"epochs": epochs, "lr": 4e-3, "weight_decay": 0.05},
        # a fixed seed in the spec: random offsets are the same in all runs
        "presets": ["dense", *({"preset": method, "seed": 0} for method in METHODS[1:])],
        "ratios": [ratio],
        "seeds": seeds,
    }


def _cells(row: Mapping[str, Any], dense: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["method"], f"{row['accuracy_percent']:.2f} ± {row['std_percent']:.2f}", f"{row['stored_bytes']:,}",
        f"{row['ratio']:.2f}x", f"{row['latency_ms']:.3f}", f"{dense['latency_ms'] / row['latency_ms']:.2f}x",
        f"{row['seconds']:.1f}",
    )  # fmt: skip
