"""Precisions that this machine computes slowly."""

import pytorch_lightning as pl
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.utilities import rank_zero_warn

from autosample.errors import AutosampleWarning
from autosample.system.machine import lacks_bf16


def warn_of_slow_precision(trainer: pl.Trainer) -> None:
    """Warn of bf16 on a CPU without arithmetic for it: a step takes up to ten times as long as in float32."""
    precision = str(trainer.precision)
    if precision.startswith("bf16") and isinstance(trainer.accelerator, CPUAccelerator) and lacks_bf16():
        rank_zero_warn(
            f"this CPU has no bf16 arithmetic, got precision {precision}: a step can take ten times as long as with "
            "32-true",
            category=AutosampleWarning,
        )
