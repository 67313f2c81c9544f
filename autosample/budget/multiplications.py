"""Budgets of multiplications: the most stored numbers with which a forward pass multiplies at most so often."""

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autosample.budget.search import Point, descend, narrow, smallest
from autosample.deployment.verify import Example
from autosample.errors import ConfigError, NothingToConvert
from autosample.model.budget import Budget
from autosample.model.convert import convert_layers_
from autosample.model.report import Report, report
from autosample.nn import SumProductLayer, compressed_layers
from autosample.sampling.rules import ProductOptions
from autosample.sampling.spec import Spec
from autosample.system.copying import copied, without_values
from autosample.system.quiet import quiet

_LARGEST_RATIO, _STRIDE, _STEP = 1e5, 2.0, 1.02
# Products per output channel: the largest number, and by how much it is lowered if layers would stay dense.
_MOST, _LESS = 64.0, 0.8

Count = Callable[..., tuple[nn.Module, Report]]


def fit_multiplications(model: nn.Module, spec: Spec, target: float, example: Example, **rules: Any) -> Budget:
    """The conversion whose forward pass has at most `target` multiplications, as `Report.multiplications` counts them.

    For sum-product layers it gives products per output channel, the same in all layers, and for others the ratio.

    Args:
        model: A dense model; it is not changed, and no memory is needed.
        spec: Its own size is ignored.
        target: Largest number of multiplications.
        example: An input, or a tuple of inputs; its whole batch counts.
        rules: `include`, `exclude`, `overrides` and `planned_bits` of `convert_`.

    Raises:
        ConfigError: No size has so few; the message names the fewest.
        NothingToConvert: The dense model has so few.
        ConversionError: The model cannot be converted, or the example is not an input of it.
    """
    empty, args = without_values(model), tree_map_only(Tensor, lambda t: t.to("meta"), example)

    def count(**size: Any) -> tuple[nn.Module, Report]:
        twin = copied(empty)
        with quiet(), contextlib.suppress(NothingToConvert):  # warnings are for the conversion that is kept
            convert_layers_(twin, spec.replace(**size), **rules)
        return twin, report(twin, args, coded=False)

    dense = report(copied(empty), args, coded=False).multiplications or 0
    if dense <= target:
        raise NothingToConvert(
            f"multiplications must be fewer than the {dense:,} of the dense model, got {target:,.0f}: use the model as "
            "it is, or ask for less"
        )
    if isinstance(spec.settings, ProductOptions):
        return _by_products(count, target)
    return _by_ratio(count, target, Point(1.0, dense))


def _by_ratio(count: Count, target: float, dense: Point) -> Budget:
    def cost(ratio: float) -> float:
        return count(ratio=ratio)[1].multiplications or 0

    points = descend(cost, target, dense, stride=_STRIDE, largest=_LARGEST_RATIO)
    if points[-1].cost > target:
        raise _too_few(min(point.cost for point in points), target, "include more layers")
    found = smallest(narrow(cost, target, *points[-2:], step=_STEP), target)
    return Budget("multiplications", target, found.cost, found.ratio)


def _by_products(count: Count, target: float) -> Budget:
    """Counts grow with products in proportion, so one model is enough to find their number."""
    twin, found = count(options={"products": 1})
    layers = {name: layer for name, layer in compressed_layers(twin).items() if isinstance(layer, SumProductLayer)}
    rows = {row.name: row for row in found.rows}
    patches = {name: (rows[name].multiplications or 0) / layer.products for name, layer in layers.items()}
    others = (found.multiplications or 0) - sum(rows[name].multiplications or 0 for name in layers)
    least = others + sum(layers[name].multiple * count for name, count in patches.items())
    if least > target:
        raise _too_few(least, target, 'set options={"products": 1}, which counts by output channel')

    def cost(ratio: float) -> float:
        sizes = {name: layer.shape[0] / layer.multiple / ratio for name, layer in layers.items()}
        return others + sum(max(round(n), 1) * layers[name].multiple * patches[name] for name, n in sizes.items())

    most = Point(1 / _MOST, cost(1 / _MOST))
    points = descend(cost, target, most, stride=_STRIDE, largest=_LARGEST_RATIO)
    between = points[-2:] if len(points) > 1 else [most, most]
    products = 1 / smallest(narrow(cost, target, *between, step=1 + 1e-6), target).ratio
    while (reached := count(options={"products": products})[1].multiplications or 0) > target:
        products *= _LESS  # layers with so many would be larger than dense ones, and stay dense
    return Budget("multiplications", target, reached, 0.0, products=products)


def _too_few(least: float, target: float, fix: str) -> ConfigError:
    return ConfigError(
        f"multiplications of this model must be at least {least:,.0f}, got {target:,.6g}: ask for more, or {fix}"
    )
