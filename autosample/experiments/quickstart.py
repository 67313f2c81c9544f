"""The main job in a few minutes: fixed against learned sampling on data that need no download."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from autosample.convert import summary_layers
from autosample.data import Digits
from autosample.errors import ConfigError
from autosample.experiments.plots import plot_accuracy, plot_windows
from autosample.experiments.run import Record, quiet, read_record, train, write_json, write_record
from autosample.spec import spec

METHODS = ("dense", "wsnet", "random", "autosample")


def quickstart(
    out: Path = Path("runs/quickstart"),
    model: str = "test_resnet",
    ratio: float = 16,
    epochs: int = 12,
    seeds: int = 3,
    image_size: int = 16,
) -> None:
    """Train a small net on the bundled digits dense, strided, random and learned, and compare them.

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
    _check(ratio=ratio, epochs=epochs, seeds=seeds, image_size=image_size)
    console = Console(width=None if Console().is_terminal else 110)
    plan = [_settings(method, model, ratio, seed) for seed in range(seeds) for method in METHODS]
    kept = {_name(s): record for s in plan if (record := _kept(out, s, epochs, image_size))}
    if len(kept) == len(plan):
        console.print(f"All {len(plan)} runs are in {out} already; delete the folder to train again.")
    elif kept:
        console.print(f"{len(kept)} of {len(plan)} runs are in {out} already; going on with the rest.")
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        every = progress.add_task("epochs of all runs", total=epochs * (len(plan) - len(kept)))
        for settings in plan:
            if _name(settings) not in kept:
                progress.update(every, description=f"{settings['summary']}, seed {settings['seed']}")
                kept[_name(settings)] = _run(out, settings, epochs, image_size, lambda: progress.advance(every))
    records = [kept[_name(settings)] for settings in plan]
    _publish(out, records, console)


def _check(*, ratio: float, **counts: int) -> None:
    """Find mistakes before the first run, not after it."""
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} must be at least 1, got {count}: leave it out for the usual number")
    for method in METHODS:
        spec(method, ratio=ratio)


def _settings(method: str, model: str, ratio: float, seed: int) -> dict[str, Any]:
    return {
        "model": model,
        "num_classes": 10,
        "in_chans": 1,
        "summary": method,
        "ratio": None if method == "dense" else ratio,
        "lr": 4e-3,
        "weight_decay": 0.05,
        "seed": seed,
    }


def _name(settings: dict[str, Any]) -> str:
    return f"{settings['summary']}-{settings['seed']}"


def _kept(out: Path, settings: dict[str, Any], epochs: int, image_size: int) -> Record | None:
    """The record of a finished run, unless other settings made it."""
    record = read_record(out / "records" / f"{_name(settings)}.json")
    wanted = {**settings, "epochs": epochs, "image_size": image_size}
    return record if record and wanted.items() <= record.settings.items() else None


def _run(out: Path, settings: dict[str, Any], epochs: int, image_size: int, tick: Any) -> Record:
    data = Digits(image_size=image_size, batch_size=64, val_fraction=0.0, padding=1, seed=settings["seed"])
    with quiet():
        model, record = train(data, settings, epochs=epochs, tick=tick)
    record.settings["image_size"] = image_size
    if settings["seed"] == 0 and settings["summary"] != "dense":
        layers = summary_layers(model.net)
        chosen = sorted(layers, key=lambda name: layers[name].geometry.dense)[-2:]
        picture = out / f"windows-{settings['summary']}.png"
        plot_windows({name: layers[name] for name in chosen}, picture, f"{settings['summary']}: windows on the summary")
    write_record(out / "records" / f"{_name(settings)}.json", record)
    return record


def _publish(out: Path, records: Sequence[Record], console: Console) -> None:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.settings["summary"]].append(record)
    rows = [summarise(name, runs) for name, runs in groups.items()]
    write_json(out / "results.json", {"rows": rows, "records": [vars(record) for record in records]})
    first = records[0].settings
    title = f"{first['model']} on {first['data']}, {len(groups['dense'])} seeds, {first['epochs']} epochs"
    plot_accuracy(records, out / "accuracy.png", title)
    table = Table(title=title)
    heads = ("method", "accuracy [%]", "stored bytes", "smaller", "MACs", "seconds a run")
    for head in heads:
        table.add_column(head, justify="left" if head == "method" else "right")
    for row in rows:
        accuracy = f"{row['accuracy_percent']:.2f} ± {row['std_percent']:.2f}"
        sizes = (f"{row['stored_bytes']:,}", f"{row['ratio']:.2f}x", f"{row['macs']:,}")
        table.add_row(row["method"], accuracy, *sizes, f"{row['seconds']:.1f}")
    console.print(table)
    console.print(f"results.json, accuracy.png and windows-*.png are in {out}")


def summarise(name: str, runs: Sequence[Record]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of one method."""
    accuracy = [100 * run.accuracy for run in runs]
    return {
        "method": name,
        "accuracy_percent": round(mean(accuracy), 3),
        "std_percent": round(stdev(accuracy), 3) if len(accuracy) > 1 else 0.0,
        "stored_bytes": runs[0].stored_bytes,
        "ratio": round(runs[0].ratio, 3),
        "macs": runs[0].macs,
        "seconds": round(mean(run.seconds for run in runs), 2),
        "seeds": len(runs),
    }
