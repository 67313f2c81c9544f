"""Measures the latency of a grid's deployed nets: `python scripts/measure_latency.py GRID [--rounds N]`.

Measures one net per method and size of the grid, at batch 1 on one thread, in turn with the dense net. The weights are
not trained, because their values do not change the time. The times of all rounds go to
results/ablation/NAME/latency.json. If the grid's records are there (`python scripts/publish.py`), overview.png is
drawn beside them; `--draw` only draws. Run it on an idle machine. It takes about a minute per net.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

from autosample import deploy, harden_
from autosample.experiments.collect import grouped
from autosample.experiments.figures import draw_overview
from autosample.experiments.grid import Cell, Grid
from autosample.experiments.identity import UNCOMPRESSED, id_of
from autosample.experiments.latency import milliseconds
from autosample.experiments.parse import read_grid
from autosample.experiments.record import as_record
from autosample.experiments.resolve import resolve
from autosample.experiments.run import make_data
from autosample.system.files import write_json
from autosample.system.machine import hardware
from autosample.system.timing import ratio, time_in_turn

ROOT = Path(__file__).resolve().parent.parent


def measure(cell: Cell, dense: torch.nn.Module, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Times of a cell's deployed net and of the deployed dense net, measured in turn [ms]."""
    torch.manual_seed(cell.seed)
    net = resolve(cell, shape).net()
    x = torch.randn(1, *shape)
    fast = deploy(net.eval() if cell.preset in UNCOMPRESSED else harden_(net).eval(), x)
    with torch.inference_mode():
        base, taken = time_in_turn([lambda: dense(x), lambda: fast(x)], rounds=rounds, budget=60.0)
    spread = ratio(base, taken)
    return {
        "method": cell.label,
        "size": str(cell.size or ""),
        **milliseconds(taken),
        "dense": milliseconds(base),
        "speedup": {"median": spread.median, "low": spread.low, "high": spread.high},
        "times_ms": [round(1e3 * t, 5) for t in taken.times],
        "dense_times_ms": [round(1e3 * t, 5) for t in base.times],
        "plans": [[row.name, row.plan.kind] for row in fast.deployment.rows],
    }


def measured(grid: Grid, rounds: int) -> dict[str, Any]:
    """The record of a grid."""
    groups = [cells[0] for cells in grouped(grid).values()]
    first = groups[0]
    data = make_data(first.data, first.data_args, seed=0, fold=first.fold, holdout=0.0)
    bare = next(cell for cell in groups if cell.preset == "dense")
    dense = deploy(resolve(bare).recipe.build().eval(), torch.randn(1, *data.input_shape))
    rows = []
    for cell in groups:
        rows.append(measure(cell, dense, data.input_shape, rounds))
        row = rows[-1]
        print(
            f"{row['method']:<12} {row['size']:<18} {row['median']:.3f} ms, dense {row['dense']['median']:.3f} ms",
            flush=True,
        )
    return {
        "command": f"python scripts/measure_latency.py ablation/{grid.name}",
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": 1,
        "input": list(data.input_shape),
        "rows": rows,
    }


def draw(grid: Grid, folder: Path) -> None:
    """Draw overview.png from records.jsonl and latency.json."""
    records = {}
    for line in (folder / "records.jsonl").read_text().splitlines():
        data = json.loads(line)
        del data["name"]
        record = as_record(data)
        records[id_of(record.cell)] = record
    rows = json.loads((folder / "latency.json").read_text())["rows"]
    # each net relative to the dense net in the same rounds: other load on the machine affected both
    base = median(row["dense"]["median"] for row in rows)
    latency = {(row["method"], row["size"]): base / row["speedup"]["median"] for row in rows}
    draw_overview(grid, {c.id: records[c.id] for c in grid.cells if c.id in records}, latency, folder / "overview.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", help="grid: a file, or a name such as ablation/overview")
    parser.add_argument("--rounds", type=int, default=101, help="maximum rounds per net (101), within a minute")
    parser.add_argument("--draw", action="store_true", help="only draw the picture again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    grid = read_grid(args.grid)
    folder = ROOT / "results/ablation" / grid.name
    if not args.draw:
        write_json(folder / "latency.json", measured(grid, args.rounds))
    if (folder / "records.jsonl").exists():
        draw(grid, folder)


if __name__ == "__main__":
    main()
