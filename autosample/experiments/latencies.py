"""Latencies in a grid become ratios before it runs: once for all seeds and folds, and while nothing else is running."""

import contextlib
from dataclasses import replace

from autosample.errors import AutosampleError
from autosample.experiments.grid import Cell, Grid
from autosample.experiments.identity import id_of
from autosample.experiments.store import Store


def settled(grid: Grid, store: Store) -> Grid:
    """The grid, in which sizes of kind `latency` have their ratio.

    It is that of a record of another seed or fold, or it is measured now, with the threads of this process. A size that
    nothing meets has none: the cell fails when it runs, and the others go on.
    """
    cells = [cell for cell in grid.cells if cell.size is not None and cell.size.kind == "latency"]
    known: dict[str, float] = {}
    for cell in cells:
        if (record := store.record(cell)) is not None and "ratio" in record.settings:
            known.setdefault(_method(cell), record.settings["ratio"])
    tried = set(known)
    for cell in cells:
        if (method := _method(cell)) not in tried:
            tried.add(method)
            with contextlib.suppress(AutosampleError):
                known[method] = _measured(cell)
    made = {c.id: replace(c, size=replace(c.size, ratio=known.get(_method(c)))) for c in cells if c.size}
    return replace(grid, cells=tuple(made.get(cell.id, cell) for cell in grid.cells))


def _method(cell: Cell) -> str:
    """The same for cells that differ only by seed or fold."""
    return id_of({name: value for name, value in cell.identity.items() if name not in ("seed", "fold")})


def _measured(cell: Cell) -> float:
    from autosample.experiments.resolve import ratio_of
    from autosample.experiments.run import make_data

    data = make_data(cell.data, cell.data_args, seed=cell.seed, fold=cell.fold, holdout=cell.holdout)
    return ratio_of(cell, data.input_shape)
