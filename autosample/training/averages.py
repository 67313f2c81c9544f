"""Averages of weights that a training is too short for."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.utilities import rank_zero_warn

from autosample.errors import AutosampleWarning

# share of the average that may stay what training began with
_MOST_OF_START = 0.1
# an average with the decay that is suggested spans a tenth of the training
_SPANS = 10


def warn_of_long_average(trainer: pl.Trainer, steps: int) -> None:
    """Warn if validation and test would see much of the weights that training began with.

    This happens when a recipe with an average (EMA) is cut short by flags.
    """
    for average in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(average, EMAWeightAveraging) or average.update_starting_at_epoch is not None:
            continue
        updates = (steps - (average.update_starting_at_step or 0)) // max(average.update_every_n_steps, 1)
        decay = _decay(average)
        if updates > 0 and decay**updates > _MOST_OF_START:
            rank_zero_warn(
                f"the average of weights keeps {100 * decay**updates:.0f} % of those that training begins with, got a "
                f"decay of {decay:g} and {updates} updates: for a short training pass --trainer.callbacks.decay "
                f"{max(1 - _SPANS / updates, 0.5):.3g}",
                category=AutosampleWarning,
            )


def _decay(average: EMAWeightAveraging) -> float:
    """The share of an average that an update keeps. Lightning keeps only the function: it averages 1 with 0."""
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    return float(average._kwargs["avg_fn"](one, zero, 1))
