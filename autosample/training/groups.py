"""Parameter groups: decay for summaries and weights, none for norms and biases, own rates for positions."""

from typing import Any

from torch import nn

from autosample.nn import SummaryLayer
from autosample.sampling import LearnedOffsets


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer, each with a `name`; every trainable parameter is in exactly one.

    timm's own grouping gives a one-column summary no decay, because it is long and thin like a bias; here summaries
    decay like the weights that they stand for. Positions and selections never decay. What an offset rule has
    `rated` learns at its spec's `rate` [positions, or scores of a choice, per step of Adam], or at `lr` where that is
    `None`; index learners and selections of channels learn at `lr`.

    Args:
        lr: Learning rate of everything but positions.
        weight_decay: Decay of summaries and of weights with two axes or more.
    """
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # pyright: ignore
    rates = _position_rates(model)
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in rates:
            rate = rates[id(parameter)] or lr
            key, settings = ("positions", rate), {"lr": rate, "weight_decay": 0.0}
        elif name.endswith("summary") or (parameter.ndim > 1 and not name.endswith("gains") and name not in exempt):
            key, settings = ("weights", lr), {"lr": lr, "weight_decay": weight_decay}
        else:
            key, settings = ("no_decay", lr), {"lr": lr, "weight_decay": 0.0}
        group = groups.setdefault(key, {"name": _label(*key, lr), "params": [], **settings})
        group["params"].append(parameter)
    return list(groups.values())


def _label(name: str, rate: float, lr: float) -> str:
    return f"{name}@{rate:g}" if name == "positions" and rate != lr else name


def _position_rates(model: nn.Module) -> dict[int, float | None]:
    """The rate of every parameter that belongs to an offset rule or to a channel selection, by id."""
    rates: dict[int, float | None] = {}
    for layer in model.modules():
        if isinstance(layer, SummaryLayer):
            parts = [part for part in (layer.offsets, layer.columns) if part is not None]
            rates |= {id(p): None for part in parts for p in part.parameters()}
            rules = [rule for rule in layer.offsets.modules() if isinstance(rule, LearnedOffsets)]
            rates |= {id(p): layer.spec.rate for rule in rules for p in rule.rated()}
    return rates
