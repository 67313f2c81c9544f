"""Measures the latency of a grid's deployed nets: `python scripts/measure_latency.py GRID [--rounds N]`.

Measures one net per method and size of the grid, at batch 1 on one thread, in turn with the dense net: deployed, and as
an ONNX file in onnxruntime, float32. The weights are not trained, because their values do not change the time; only the
ranks of `low-rank` depend on them a little. The times of all rounds go to results/ablation/NAME/latency.json. If the
grid's records are there (`python scripts/publish.py`), overview.png is drawn beside them; `--draw` only draws. Run it
on an idle machine. It takes up to a minute per net.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from autosample import deploy, export_onnx, harden_
from autosample.errors import ExportError
from autosample.experiments.collect import grouped
from autosample.experiments.figures import draw_overview
from autosample.experiments.grid import Cell, Grid
from autosample.experiments.identity import UNCOMPRESSED, id_of
from autosample.experiments.latency import milliseconds
from autosample.experiments.parse import read_grid
from autosample.experiments.record import as_record
from autosample.experiments.resolve import resolve
from autosample.experiments.run import make_data
from autosample.export.formats.onnx import onnx_runner
from autosample.system.files import write_json
from autosample.system.machine import hardware
from autosample.system.timing import Timing, ratio, time_in_turn

ROOT = Path(__file__).resolve().parent.parent


def measure(cell: Cell, dense: torch.nn.Module, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Times of a cell's net and of the dense net, both deployed and in onnxruntime, measured in turn [ms]."""
    torch.manual_seed(cell.seed)
    net = resolve(cell, shape).net()
    net = net.eval() if cell.preset in UNCOMPRESSED else harden_(net).eval()
    x = torch.randn(1, *shape)
    plain, fast = deploy(dense, x), deploy(net, x)
    sides = [partial(plain, x), partial(fast, x), in_onnxruntime(dense, x), in_onnxruntime(net, x)]
    with torch.inference_mode():
        base, taken, base_file, file = time_in_turn(sides, rounds=rounds, budget=60.0)
    return {
        "method": cell.label,
        "size": str(cell.size or ""),
        **against(base, taken),
        "onnxruntime": against(base_file, file),
        "plans": [[row.name, row.plan.kind] for row in fast.deployment.rows],
    }


def in_onnxruntime(net: torch.nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """Runs a net as an ONNX file in float32, on as many threads as torch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export_onnx(net, path, x)
        except ExportError:  # levels of few bits have no compact form in float32; the time is that of dense weights
            export_onnx(net, path, x, dense=True)
        return partial(onnx_runner(path, torch.get_num_threads()), (x,))


def against(base: Timing, taken: Timing) -> dict[str, Any]:
    """A net's times and those of the dense net [ms], and their ratio."""
    spread = ratio(base, taken)
    return {
        **milliseconds(taken),
        "dense": milliseconds(base),
        "speedup": {"median": spread.median, "low": spread.low, "high": spread.high},
        "times_ms": [round(1e3 * t, 5) for t in taken.times],
        "dense_times_ms": [round(1e3 * t, 5) for t in base.times],
    }


def measured(grid: Grid, rounds: int) -> dict[str, Any]:
    """The record of a grid."""
    groups = [cells[0] for cells in grouped(grid).values()]
    first = groups[0]
    data = make_data(first.data, first.data_args, seed=0, fold=first.fold, holdout=0.0)
    bare = next(cell for cell in groups if cell.preset == "dense")
    dense = resolve(bare).recipe.build().eval()
    for cell in groups:
        resolve(cell, data.input_shape).net()  # one that cannot be made is known before the first is timed
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
