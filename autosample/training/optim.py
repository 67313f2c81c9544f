"""Optimizers and schedules of timm, by name. Errors name the nearest known name."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler import create_scheduler_v2  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from autosample.errors import ConfigError, hint, one_line

#: Schedules of timm that can be stepped after each batch, and `none`.
SCHEDULERS = ("constant", "cosine", "multistep", "none", "poly", "rsqrt", "step", "tanh", "wsd")

# The usual 1e-8 is zero in float16, so Adam would divide zero by zero.
_HALF_EPS = 1e-4


def build_optimizer(
    groups: list[dict[str, Any]], name: str, lr: float, weight_decay: float, args: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """Make the timm optimizer `name` for these parameter groups.

    Raises:
        ConfigError: timm does not know the name, or the optimizer rejects an argument.
    """
    base = name.removeprefix("lookahead_").lower().replace("_", "")
    known = [str(n) for n in list_optimizers()]
    if base not in {n.replace("_", "") for n in known}:
        near = hint(name, known, otherwise="try adamw, sgd or timm.optim.list_optimizers()")
        raise ConfigError(f'no optimizer of timm is called "{name}": {near}')
    try:
        optimizer = create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=weight_decay, **(args or {}))
    except (AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f'optimizer "{name}" does not accept lr, weight_decay or optimizer_args: {one_line(error)}'
        ) from error
    for group in optimizer.param_groups:
        if any(p.dtype == torch.float16 for p in group["params"]) and group.get("eps") and "eps" not in (args or {}):
            group["eps"] = max(group["eps"], _HALF_EPS)
    return optimizer


def build_scheduler(
    optimizer: torch.optim.Optimizer,
    name: str,
    lr: float,
    *,
    epochs: int,
    per_epoch: int,
    warmup: float,
    args: Mapping[str, Any] | None = None,
) -> Any:
    """Make the timm schedule `name`, to be stepped after each batch; `None` for `"none"`.

    Args:
        optimizer: Optimizer whose rates the schedule sets.
        name: One of `SCHEDULERS`.
        lr: Peak rate. Warm-up starts at 1/25 of it, and decay ends at 1/1000 of it. Groups with another rate follow it
            in proportion.
        epochs: Number of epochs.
        per_epoch: Batches per epoch.
        warmup: Share of the epochs in which the rate rises to `lr`.
        args: More arguments of timm's `create_scheduler_v2`.

    Raises:
        ConfigError: The name is unknown, or timm rejects an argument.
    """
    if name not in SCHEDULERS:
        raise ConfigError(f'no schedule of timm is called "{name}": {hint(name, SCHEDULERS)}')
    if name == "none":
        return None
    for group in optimizer.param_groups if lr else ():
        if group["lr"] != lr:  # timm's floors are the same for all groups: those of `lr`, times the group's share
            group["lr_scale"], group["initial_lr"] = group["lr"] / lr, lr
    lengths: Any = {"num_epochs": epochs, "warmup_epochs": warmup * epochs, "updates_per_epoch": per_epoch}
    settings = {"warmup_lr": lr / 25, "min_lr": lr / 1000, **(args or {})}
    try:
        return create_scheduler_v2(optimizer, sched=name, step_on_epochs=False, **lengths, **settings)[0]
    except (AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f'schedule "{name}" does not accept these arguments ({one_line(error)}): change scheduler_args'
        ) from error


# lowest value, highest value, and a usual one
_RANGES = {
    "label_smoothing": (0.0, 1.0, 0.1),
    "mixup": (0.0, float("inf"), 0.2),
    "cutmix": (0.0, float("inf"), 1.0),
    "lr": (0.0, float("inf"), 0.002),
    "weight_decay": (0.0, float("inf"), 0.05),
    "warmup": (0.0, 1.0, 0.1),
    "seed": (0, float("inf"), 0),
}


def check_settings(h: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless the numbers among the hyperparameters of a `Classifier` are in their ranges."""
    if h["num_classes"] < 2:
        raise ConfigError(
            f"a classifier needs at least 2 classes, got {h['num_classes']}: set num_classes to the number in the data"
        )
    for name, (low, high, usual) in _RANGES.items():
        if not low <= h[name] <= high:
            rule = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
            raise ConfigError(f"{name} must be {rule}, got {h[name]}: {usual:g} is usual")


def rehearse(h: Mapping[str, Any]) -> None:
    """Build optimizer and schedule once for a dummy parameter, to find mistakes early.

    Args:
        h: Hyperparameters of a `Classifier`.

    Raises:
        ConfigError: As for `build_optimizer` and `build_scheduler`.
    """
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))]}]
    optimizer = build_optimizer(groups, h["optimizer"], h["lr"], h["weight_decay"], h["optimizer_args"])
    build_scheduler(
        optimizer, h["scheduler"], h["lr"], epochs=99, per_epoch=99, warmup=h["warmup"], args=h["scheduler_args"]
    )
