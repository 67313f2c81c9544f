"""The main job in a few minutes: sampling rules against one another on data that need no download."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autosample.errors import ConfigError
from autosample.experiments.ablate import default_console, inline_runner, run_grid
from autosample.experiments.collect import rows, write_tables
from autosample.experiments.figures import draw
from autosample.experiments.grid import Grid
from autosample.experiments.parse import make_grid
from autosample.experiments.record import Record

METHODS = ("dense", "wsnet", "random", "autosample")


def quickstart(
    out: Path = Path("runs/quickstart"),
    model: str = "test_resnet",
    ratio: float = 16,
    epochs: int = 12,
    seeds: int = 3,
    image_size: int = 16,
) -> None:
    """Train a small net on the bundled digits dense and with three sampling rules, and compare them.

    Records of finished runs are kept, so that calling it again goes on where it stopped or only prints the table.

    Args:
        out: Folder for records, results.json and the pictures.
        model: Name of a timm model or of one of autosample's nets.
        ratio: Dense weights per stored number in each converted layer.
        epochs: Epochs of each run.
        seeds: Runs of each method.
        image_size: Digits are scaled to this many pixels a side.

    Raises:
        ConfigError: A count is below 1, or a record in `out` is damaged.
        SpecError: The ratio is unusable.
    """
    for name, count in (("epochs", epochs), ("seeds", seeds), ("image_size", image_size)):
        if count < 1:
            raise ConfigError(f"{name} must be at least 1, got {count}: leave it out for the usual number")
    grid = make_grid(
        {
            "name": "quickstart",
            "title": f"{model} on Digits, {seeds} seeds, {epochs} epochs",
            "data": {"class": "Digits", "image_size": image_size, "batch_size": 64, "padding": 1},
            "model": {"name": model, "num_classes": 10, "in_chans": 1},
            "train": {"epochs": epochs, "lr": 4e-3, "weight_decay": 0.05},
            # random positions are the same for all seeds here
            "presets": ["dense", *({"preset": method, "seed": 0} for method in METHODS[1:])],
            "ratios": [ratio],
            "seeds": seeds,
        }
    )
    console = default_console()
    records = run_grid(grid, out, inline_runner(), console)
    if len(records) < len(grid.cells):
        raise ConfigError(f"all runs must succeed, got {len(grid.cells) - len(records)} that failed: see {out}/failed")
    write_tables(grid, records, out)
    draw(grid, records, out)
    _print(grid, records, console)
    console.print(f"results.json, accuracy.png and windows-*.png are in {out}")


def _print(grid: Grid, records: Mapping[str, Record], console: Console) -> None:
    table = Table(title=grid.title)
    heads = ("method", "accuracy [%]", "stored bytes", "smaller", "MACs", "seconds a run")
    for head in heads:
        table.add_column(head, justify="left" if head == "method" else "right")
    for row in rows(grid, records):
        accuracy = f"{row['accuracy_percent']:.2f} ± {row['std_percent']:.2f}"
        sizes = (f"{row['stored_bytes']:,}", f"{row['ratio']:.2f}x", f"{row['macs']:,}")
        table.add_row(row["method"], accuracy, *sizes, f"{row['seconds']:.1f}")
    console.print(table)
