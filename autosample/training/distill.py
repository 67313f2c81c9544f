"""Distillation: a compressed net also learns from the scores of the dense net with trained weights."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.errors import ConfigError
from autosample.model.recipe import Recipe


def check_distillation(settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless these arguments of `Classifier` are usable for distillation, or ask for none."""
    share, temperature = settings["distill"], settings["temperature"]
    if not 0 <= share <= 1 or not temperature > 0:
        raise ConfigError(
            f"distill must be between 0 and 1 and temperature above 0, got {share} and {temperature}: "
            "0.7 and 4 are usual"
        )
    args = settings["model_args"] or {}
    if share and not (args.get("pretrained") or args.get("checkpoint_path")):
        raise ConfigError(
            "distill needs a dense net with trained weights, got none: set pretrained or checkpoint_path in model_args"
        )


def make_teacher(settings: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The dense net of a `Classifier` with these arguments: with trained weights, frozen, in evaluation mode."""
    return Recipe.of(settings).bare().requires_grad_(False).eval().to(device)


def distillation_loss(
    scores: Float[Tensor, "b classes"], taught: Float[Tensor, "b classes"], temperature: float
) -> Float[Tensor, ""]:
    """`T²·KL(softmax(taught/T) ‖ softmax(scores/T))`, mean over the batch (Hinton et al. 2015, section 2)."""
    said, wanted = F.log_softmax(scores / temperature, -1), F.log_softmax(taught / temperature, -1)
    return temperature**2 * F.kl_div(said, wanted, reduction="batchmean", log_target=True)
