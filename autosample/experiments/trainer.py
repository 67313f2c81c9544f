"""Repeatable trainings that write no files and show no notices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch


def trainer_for(epochs: int, *, validate: bool = False, **options: Any) -> pl.Trainer:
    """A trainer that writes no files, and reads only training data until the end."""
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validate else 0,
        check_val_every_n_epoch=epochs + 1,
        **options,
    )


@contextmanager
def deterministic_on_cpu() -> Iterator[None]:
    """Make equal configurations give equal numbers. On a CPU with several threads, scatter-adds would differ."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    if not torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False  # filling costs time, and no code here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fill


# loggers with notices for authors of training loops
NOISY = (
    "pytorch_lightning",
    "pytorch_lightning.utilities.rank_zero",
    "pytorch_lightning.accelerators.cuda",
    "lightning_fabric.utilities.seed",
)
