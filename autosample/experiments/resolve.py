"""From a cell to the arguments of its training: sizes in bytes become ratios, widths and overrides."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from autosample.errors import ConfigError
from autosample.experiments.grid import NARROW, Cell, Size
from autosample.model.budget import fit_budget, stored_bytes
from autosample.model.report import report
from autosample.models import create
from autosample.models.narrow import width_args


@dataclass(frozen=True)
class Resolved:
    """What a cell trains.

    Attributes:
        settings: Arguments of `Classifier` that say which net and how it is converted.
        quantize: Arguments of `quantize_` for the trained net; empty where it stays in float32.
        dense_bytes, dense_params: Of the dense net at its full width.
    """

    settings: dict[str, Any]
    quantize: dict[str, Any]
    dense_bytes: int
    dense_params: int


def resolve(cell: Cell) -> Resolved:
    """The net of a cell at the size that it asks for.

    Raises:
        ConfigError: That size is out of reach; the message says what is possible.
    """
    net, quantize = {"model": cell.model, **cell.model_args}, quantization(cell)
    dense = report(_meta(_factory(net)))
    more = (quantize, dense.stored_bytes, dense.dense_params)
    if cell.preset == "dense":
        return Resolved({**net, "summary": "dense"}, *more)
    target = _target(net, cell.size, dense.stored_bytes)
    if cell.preset == NARROW:
        assert target is not None
        given = json.dumps([net, quantize], sort_keys=True)
        args = {**(net.get("model_args") or {}), **_fit_width(given, target)}
        return Resolved({**net, "model_args": args, "summary": "dense"}, *more)
    return Resolved({**net, **_conversion(cell, net, quantize, target)}, *more)


def quantization(cell: Cell) -> dict[str, Any]:
    """Arguments of `quantize_` for a cell's net: layers that sample, or where none does, all of them."""
    given = {name: value for name, value in cell.quantize.items() if name != "start"}
    sampled = "all" if cell.preset in ("dense", NARROW) else "sampled"
    return {**given, "layers": sampled} if given else {}


def _conversion(cell: Cell, net: dict[str, Any], quantize: dict[str, Any], target: float | None) -> dict[str, Any]:
    """How the layers are converted: arguments of `Classifier`."""
    assert cell.size is not None
    like = cell.size.value if cell.size.kind == "like" else None
    # random positions are drawn anew for every seed, unless the preset fixes them
    changes = {"seed": cell.seed, **_planned_bits(quantize), **cell.changes}
    overrides = dict(cell.overrides)
    if like and like["preset"] == cell.preset and not cell.changes:
        own = {k: v for k, v in like.items() if k not in ("preset", "ratio")}
        return _told(cell.preset, like.get("ratio"), {**changes, **own}, overrides)
    if target is None:
        return _told(cell.preset, cell.size.value, changes, overrides)
    given = json.dumps(
        [net, cell.preset, {**_planned_bits(quantize), **cell.changes}, overrides, quantize], sort_keys=True
    )
    ratio, fitted = _fit(given, target, cell.tolerance)
    return _told(cell.preset, ratio, changes, {**overrides, **fitted})


def _planned_bits(quantize: dict[str, Any]) -> dict[str, Any]:
    return {"bits": quantize["bits"]} if quantize else {}


def _told(preset: str, ratio: float | None, changes: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    return {"summary": preset, "ratio": ratio, "summary_args": changes, "overrides": overrides or None}


def _target(net: dict[str, Any], size: Size | None, dense: int) -> float | None:
    """Bytes of the whole net, or `None` where the layer ratio is given."""
    if size is None:
        raise ConfigError("a preset that samples needs a size, got none: write ratios, net_ratios, bytes or like")
    if size.kind == "like":
        return _bytes_like(json.dumps([net, size.value], sort_keys=True))
    return {"ratio": None, "net_ratio": dense / size.value, "bytes": size.value}[size.kind]


def _rules(net: dict[str, Any]) -> dict[str, Any]:
    return {k: net[k] for k in ("include", "exclude") if net.get(k) is not None}


def _factory(net: dict[str, Any], **more: Any) -> Callable[[], nn.Module]:
    args = {**(net.get("model_args") or {}), "pretrained": False, **more}
    classes, chans = net.get("num_classes", 10), net.get("in_chans")
    return lambda: create(net["model"], num_classes=classes, in_chans=chans, **args)


def _meta(factory: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return factory()


# Cells that differ by seed or fold ask the same; the keys are JSON, since mappings cannot be hashed.


@lru_cache(maxsize=256)
def _bytes_like(given: str) -> int:
    net, like = json.loads(given)
    return stored_bytes(_factory(net), spec=like, **_rules(net))


@lru_cache(maxsize=256)
def _fit(given: str, target: float, tolerance: float) -> tuple[float, dict[str, Any]]:
    net, preset, changes, overrides, quantize = json.loads(given)
    rules = {**_rules(net), **({"overrides": overrides} if overrides else {})}
    budget = {"tolerance": tolerance, "quantize": quantize, **rules}
    fit = fit_budget(_factory(net), {"preset": preset, **changes}, target, **budget)
    return fit.ratio, fit.overrides


@lru_cache(maxsize=256)
def _fit_width(given: str, target: float) -> dict[str, Any]:
    """The width whose bytes are nearest to the target: channels are whole, so a few percent may be missed."""
    net, quantize = json.loads(given)
    full = _meta(_factory(net))

    def size(width: float) -> int:
        return stored_bytes(_factory(net, **width_args(full, width)), quantize=quantize)

    low, high = 1e-3, 1.0
    if not size(low) <= target <= size(high):
        raise ConfigError(
            f"a narrow net must store between {size(low):,} and {size(high):,} bytes, got {target:,.0f}: "
            "change the size"
        )
    best = high
    while high - low > 1e-5:
        middle = math.sqrt(low * high)
        best = min(best, middle, key=lambda width: abs(size(width) - target))
        low, high = (low, middle) if size(middle) > target else (middle, high)
    return width_args(full, best)
