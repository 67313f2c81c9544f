"""From a cell to the net that it trains: sizes in bytes become ratios, widths and overrides."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from autosample.budget.recipes import within
from autosample.budget.sizes import fit_budget, stored_bytes
from autosample.errors import ConfigError
from autosample.experiments.grid import Cell, Size
from autosample.experiments.identity import NARROW, UNCOMPRESSED
from autosample.experiments.rivals import RIVALS
from autosample.model.recipe import Recipe
from autosample.model.report import report
from autosample.models.narrow import width_args


@dataclass(frozen=True)
class Resolved:
    """The net that a cell trains.

    Attributes:
        recipe: The net, at the size that the cell asks for.
        quantize: Arguments of `quantize_` for the trained net; empty if it stays in float32.
        dense_bytes, dense_params: Bytes and numbers of the dense net at its full width.
        shrink_: Changes the recipe's net to the size before it trains, and tells how. `None`: the recipe has the size.
    """

    recipe: Recipe
    quantize: dict[str, Any]
    dense_bytes: int
    dense_params: int
    shrink_: Callable[[nn.Module], dict[str, Any]] | None = None

    def net(self) -> nn.Module:
        """The net before its training. That of a rival is made from weights that are not trained."""
        net = self.recipe.build()
        if self.shrink_ is not None:
            self.shrink_(net)
        return net


def resolve(cell: Cell, shape: Sequence[int] = ()) -> Resolved:
    """The net of a cell at the size that it asks for.

    Args:
        cell: Cell of a grid.
        shape: Shape of one example, for multiplications, a latency that has no ratio yet, and rivals.

    Raises:
        ConfigError: The size is not possible; the message says what is.
        MissingExtra: The preset needs a package that is not installed.
    """
    net, quantize = replace(cell.recipe, spec="dense", planned_bits=32), quantization(cell)
    dense = report(_bare(net))
    more = (quantize, dense.stored_bytes, dense.dense_params)
    if cell.preset == "dense":
        return Resolved(net, *more)
    if cell.size is None:
        raise ConfigError(
            "a preset that compresses needs a size, got none: write ratios, net_ratios, bytes, latencies, "
            "multiplications or like"
        )
    if cell.size.kind == "latency":
        return Resolved(_sized(cell, Size("ratio", cell.size.ratio or ratio_of(cell, shape)), quantize, None), *more)
    if cell.size.kind == "multiplications":
        return Resolved(_counted(_key(_seeded(cell), {}), cell.size.value, tuple(shape)), *more)
    target = _target(net, cell.size, dense.stored_bytes)
    if cell.preset == NARROW:
        assert target is not None
        width = _fit_width(_key(net, quantize), target)
        return Resolved(replace(net, model_args={**(net.model_args or {}), **width}), *more)
    if cell.preset in RIVALS:
        RIVALS[cell.preset].check()
        chosen = {name: value for name in ("include", "exclude") if (value := getattr(net, name))}
        told = {"target": target, "cost": partial(stored_bytes, quantize=quantize), "patterns": chosen, "shape": shape}
        return Resolved(net, *more, partial(RIVALS[cell.preset].shrink_, **told))
    return Resolved(_sized(cell, cell.size, quantize, target), *more)


def ratio_of(cell: Cell, shape: Sequence[int]) -> float:
    """The ratio at which the net of a cell has the latency of its size, measured now.

    Raises:
        AutosampleError: No ratio is fast enough, or the dense net is.
    """
    assert cell.size is not None
    budget = within(cell.recipe, latency=cell.size.value, shape=shape)[1]
    assert budget is not None
    return budget.ratio


def quantization(cell: Cell) -> dict[str, Any]:
    """Arguments of `quantize_` for a cell's net: for the layers that sample, or for all layers if none samples."""
    return _arguments(cell.quantize, "all" if cell.preset in UNCOMPRESSED else "sampled")


def _arguments(quantize: Mapping[str, Any], layers: str) -> dict[str, Any]:
    given = {name: value for name, value in quantize.items() if name not in ("start", "train")}
    return {**given, "layers": layers} if given else {}


def _sized(cell: Cell, size: Size, quantize: dict[str, Any], target: float | None) -> Recipe:
    """A compressing recipe with the ratio and overrides that reach the size."""
    recipe, like = cell.recipe, size.spec if size.kind == "like" else None
    changes = {} if isinstance(recipe.spec, str) else dict(recipe.spec)
    spec = dict(_seeded(cell).spec)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if like and like["preset"] == recipe.preset and not changes and size.quantize == cell.quantize:
        return replace(recipe, spec={**spec, **like})
    if target is None:
        return replace(recipe, spec={**spec, "ratio": size.value})
    ratio, fitted = _fit(_key(recipe, quantize), target, cell.tolerance)
    overrides = {**(recipe.overrides or {}), **fitted}
    return replace(recipe, spec={**spec, "ratio": ratio}, overrides=overrides or None)


def _seeded(cell: Cell) -> Recipe:
    """A compressing recipe in which each seed draws other random offsets, unless the preset has a seed."""
    given = cell.recipe.spec
    changes = {} if isinstance(given, str) else given
    return replace(cell.recipe, spec={"preset": cell.preset, "seed": cell.seed, **changes})


def _target(net: Recipe, size: Size, dense: int) -> float | None:
    """Bytes of the whole net, or `None` if the size is a layer ratio."""
    if size.kind == "like":
        return _bytes_like(_key(replace(net, planned_bits=size.quantize.get("bits", 32)), size.value))
    return {"ratio": None, "net_ratio": dense / size.value, "bytes": size.value}[size.kind]


def _bare(net: Recipe, **more: Any) -> nn.Module:
    """The dense net of a recipe, without memory."""
    with torch.device("meta"):
        return replace(net, model_args={**(net.model_args or {}), "pretrained": False, **more}).bare()


# cached: cells that differ by seed or fold have the same size; keys are JSON, because mappings cannot be hashed


def _key(recipe: Recipe, other: Mapping[str, Any]) -> str:
    return json.dumps([recipe.to_dict(), other], sort_keys=True)


def _opened(key: str) -> tuple[Recipe, dict[str, Any], dict[str, Any]]:
    """The parts of a key: a recipe, its patterns as arguments of `convert_`, and the other data."""
    recipe, other = json.loads(key)
    made = Recipe.from_dict(recipe)
    patterns = {"include": made.include, "exclude": made.exclude, "overrides": made.overrides}
    return made, {name: value for name, value in patterns.items() if value}, other


@lru_cache(maxsize=256)
def _bytes_like(key: str) -> int:
    net, patterns, like = _opened(key)
    patterns.pop("overrides", None)
    size = Size("like", like)
    how = {"planned_bits": net.planned_bits, "quantize": _arguments(size.quantize, "sampled")}
    return stored_bytes(_bare(net), spec=size.spec, **how, **patterns)


@lru_cache(maxsize=256)
def _counted(key: str, target: float, shape: tuple[int, ...]) -> Recipe:
    """The recipe whose net has at most so many multiplications for one example."""
    return within(_opened(key)[0], multiplications=target, shape=shape)[0]


@lru_cache(maxsize=256)
def _fit(key: str, target: float, tolerance: float) -> tuple[float, dict[str, Any]]:
    recipe, patterns, quantize = _opened(key)
    options = {**patterns, "planned_bits": recipe.planned_bits, "quantize": quantize}
    fit = fit_budget(_bare(recipe), recipe.spec, target, tolerance=tolerance, **options)
    return fit.ratio, fit.overrides


@lru_cache(maxsize=256)
def _fit_width(key: str, target: float) -> dict[str, Any]:
    """The width whose bytes are nearest to the target; they may differ by a few percent, as channels are whole."""
    net, _, quantize = _opened(key)
    full = _bare(net)

    def size(width: float) -> int:
        return stored_bytes(_bare(net, **width_args(full, width)), quantize=quantize)

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
