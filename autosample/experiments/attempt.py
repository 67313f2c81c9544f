"""Cells and outcomes as messages between processes: the same for local workers and for Ray."""

import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from autosample.errors import one_line
from autosample.experiments.grid import Cell, Size
from autosample.experiments.record import Record
from autosample.experiments.store import Failure
from autosample.model.recipe import Recipe

_TAIL = 20


def pack_cell(cell: Cell) -> dict[str, Any]:
    """A cell as JSON data."""
    kept = {name: value for name, value in vars(cell).items() if name not in ("identity", "id")}
    return {**kept, "recipe": cell.recipe.to_dict(), "size": asdict(cell.size) if cell.size else None}


def unpack_cell(data: dict[str, Any]) -> Cell:
    """The inverse of `pack_cell`."""
    size = Size(**data["size"]) if data["size"] else None
    return Cell(**{**data, "recipe": Recipe.from_dict(data["recipe"]), "size": size})


def attempt(
    cell: Cell, tick: Callable[[], None] = lambda: None, wandb: dict[str, str] | None = None
) -> Record | Failure:
    """Run a cell. An error becomes a `Failure`; interrupts are not caught.

    Args:
        cell: Cell of a grid.
        tick: Called after each epoch.
        wandb: `group`, `folder` and `mode` of wandb's log; `None` for no log.
    """
    try:
        from autosample.experiments.run import run_cell  # imports torch and Lightning

        if wandb is None:
            return run_cell(cell, tick)
        from autosample.experiments.wandb_log import logged

        with logged(cell, **wandb) as (logger, tell):
            record = run_cell(cell, tick, logger)
            tell(record)
            return record
    except Exception as error:  # the other cells still run
        lines = traceback.format_exception(error)
        return Failure(type(error).__name__, one_line(error)[:1000], "".join(lines).splitlines()[-_TAIL:])


def pack_outcome(outcome: Record | Failure) -> dict[str, Any]:
    """The outcome of a cell as JSON data."""
    return {"record" if isinstance(outcome, Record) else "failure": asdict(outcome)}


def unpack_outcome(data: dict[str, Any]) -> Record | Failure:
    """The inverse of `pack_outcome`."""
    return Record(**data["record"]) if "record" in data else Failure(**data["failure"])
