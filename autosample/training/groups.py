"""Parameter groups: decay for summaries and weights, no decay for norms and biases, own rates for offsets."""

from typing import Any

from torch import nn

from autosample.nn import compressed_layers
from autosample.sampling import LearnedOffsets
from autosample.system.warning import warn

#: speed above which learned offsets become chaotic, and do harm [rows a step]
FAST = 1.0


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer, each with a `name`; every trainable parameter is in exactly one.

    The tensors that a compressed layer stores instead of its weight decay like a weight. (timm's own grouping would
    take a summary with one column for a bias.) Offsets and other selections never decay. They learn at the `rate` of
    their options [rows or scores per Adam step], or at `lr` if that is `None`.

    Args:
        model: Model, converted or not.
        lr: Learning rate of all other parameters.
        weight_decay: Decay of summaries and of weights with two axes or more.
    """
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # pyright: ignore
    layers = list(compressed_layers(model).values())
    _warn_of_fast(model, lr)
    rates = {key: rate for layer in layers for key, rate in layer.rates().items()}
    weights = {id(getattr(layer, name)) for layer in layers for name in layer.coded}
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in rates:
            rate = rates[id(parameter)] or lr
            key, settings = ("offsets", rate), {"lr": rate, "weight_decay": 0.0}
        elif id(parameter) in weights or (parameter.ndim > 1 and name not in exempt):
            key, settings = ("weights", lr), {"lr": lr, "weight_decay": weight_decay}
        else:
            key, settings = ("no_decay", lr), {"lr": lr, "weight_decay": 0.0}
        group = groups.setdefault(key, {"name": _label(*key, lr), "params": [], **settings})
        group["params"].append(parameter)
    return list(groups.values())


def _warn_of_fast(model: nn.Module, lr: float) -> None:
    """Warn if a step of Adam can move learned offsets by more than a row: then they become chaotic."""
    rules = {name: getattr(layer, "offsets", None) for name, layer in compressed_layers(model).items()}
    learned = {name: rule for name, rule in rules.items() if isinstance(rule, LearnedOffsets) and not rule.is_frozen}
    speeds = {name: rule.speed(rule.options.rate or lr) for name, rule in learned.items()}
    name = max(speeds, key=speeds.__getitem__, default="")
    if speeds and speeds[name] > FAST:
        rate = learned[name].options.rate or lr
        warn(
            f"learned offsets should move by at most a row a step, got up to {speeds[name]:.3g} rows in "
            f'"{name}" at rate {rate:g}: lower the option rate, or leave out the option unit if it is logit'
        )


def _label(name: str, rate: float, lr: float) -> str:
    return f"{name}@{rate:g}" if name == "offsets" and rate != lr else name
