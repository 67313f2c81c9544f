"""Counts multiplications and additions of a grid's nets: `python scripts/count_operations.py GRID`.

Builds one net per method and size of the grid, and writes what `autosample.report` counts for one example to
results/ablation/NAME/operations.json. Nothing is trained: the counts do not depend on values, except that additions of
sum-product layers leave out zeros, which are those of random weights here.
"""

import argparse
from pathlib import Path

import torch

from autosample import report
from autosample.experiments.collect import grouped
from autosample.experiments.grid import Grid
from autosample.experiments.parse import read_grid
from autosample.experiments.resolve import resolve
from autosample.experiments.run import make_data
from autosample.system.files import write_json

ROOT = Path(__file__).resolve().parent.parent


def counted(grid: Grid) -> list[dict[str, int | str | None]]:
    """A row for each method and size."""
    rows = []
    for cells in grouped(grid).values():
        cell = cells[0]
        shape = make_data(cell.data, cell.data_args, seed=0, fold=cell.fold, holdout=0.0).input_shape
        torch.manual_seed(cell.seed)
        found = report(resolve(cell, shape).net(), torch.zeros(1, *shape))
        counts = {"multiplications": found.multiplications, "additions": found.additions}
        rows.append({"method": cell.label, "size": str(cell.size or ""), **counts})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", help="grid: a file, or a name such as ablation/strassen_cifar10")
    grid = read_grid(parser.parse_args().grid)
    folder = ROOT / "results/ablation" / grid.name
    folder.mkdir(parents=True, exist_ok=True)
    command = f"python scripts/count_operations.py ablation/{grid.name}"
    write_json(folder / "operations.json", {"command": command, "rows": counted(grid)})


if __name__ == "__main__":
    main()
