"""The wandb log of a cell: training curves, sizes, and the result."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from autosample.experiments.grid import Cell
from autosample.experiments.record import Record
from autosample.system.extras import require


@contextmanager
def logged(cell: Cell, group: str, folder: str, mode: str) -> Iterator[tuple[Any, Callable[[Record], None]]]:
    """A logger for Lightning, and a function that sends the record to wandb.

    Args:
        cell: Cell to log. Its id is the id of the run, so a repeated run continues the same page.
        group: Name of the grid.
        folder: Folder for wandb's files.
        mode: `offline` needs no login (`wandb sync` sends the run later); `online` sends it at once.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    require("train", "wandb", "pytorch_lightning")
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    run = wandb.init(
        project="autosample",
        group=group,
        name=cell.name,
        id=cell.id,
        dir=folder,
        mode=mode,  # pyright: ignore[reportArgumentType]
        reinit="finish_previous",
    )
    run.config.update({"cell": cell.identity, "label": cell.label}, allow_val_change=True)

    def tell(record: Record) -> None:
        kept = {k: v for k, v in asdict(record).items() if isinstance(v, int | float) and not isinstance(v, bool)}
        run.summary.update({f"record/{k}": v for k, v in kept.items()})
        if record.latency:
            run.summary.update({f"record/latency_{k}": v for k, v in record.latency.items()})

    try:
        yield WandbLogger(experiment=run), tell
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
