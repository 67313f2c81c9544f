"""Budgets of bytes: the ratio at which a model stores a given number of bytes, everything counted."""

import contextlib
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from autosample.budget.search import Point, descend, narrow, smallest
from autosample.errors import ConfigError, NothingToConvert
from autosample.model.budget import Budget
from autosample.model.convert import convert_layers_
from autosample.model.quantize import quantize_
from autosample.model.report import report
from autosample.nn import compressed_layers
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec
from autosample.system.copying import copied, without_values
from autosample.system.quiet import quiet

# A target counts as met within this share of it.
TOLERANCE = 0.01
_LARGEST_RATIO = 1e6
_STRIDE = 1.5
# A bisection ends when its ratios are nearer than this factor, or at this relative error of the bytes.
_STEP, _NEAR = 1 + 1e-7, 5e-4


def stored_bytes(model: nn.Module, *, quantize: Mapping[str, Any] | None = None, **conversion: Any) -> int:
    """Bytes that a dense model stores once it is converted, everything counted.

    Args:
        model: A dense model, on any device; it is not changed, and no memory is needed.
        quantize: Arguments of `quantize_`, if the model will be quantised.
        conversion: Arguments of `convert_`, `spec` among them; none for the dense model.
    """
    return _converted(without_values(model), conversion, quantize)[1]


def fit_budget(
    model: nn.Module,
    spec: "str | Spec | Mapping[str, Any] | Path",
    target_bytes: float,
    *,
    tolerance: float | None = TOLERANCE,
    quantize: Mapping[str, Any] | None = None,
    **rules: Any,
) -> Budget:
    """The conversion with which the whole model stores `target_bytes`, by bisection of the ratio.

    Everything counts: summaries at their precision, offsets at the bits they need, norms, biases, and layers that stay
    dense. Sizes jump where whole strides change, where a rule takes fewer windows as its budget shrinks, and where
    learned offsets become too expensive. If a jump skips the target, the windows and the rule of each layer are fixed
    too, beyond the jump or before it: sizes then follow the ratio smoothly (the strided rule then has the option
    `strides="any"`).

    Args:
        model: A dense model, on any device; it is not changed, and no memory is needed.
        spec: Preset, `Spec`, mapping or file; its own ratio is ignored.
        target_bytes: Size to meet [bytes].
        tolerance: Largest relative error, on both sides. `None`: the size comes as near as possible, and is never above
            the target.
        quantize: Arguments of `quantize_`, if the model will be quantised.
        rules: `include`, `exclude`, `overrides` and `planned_bits` of `convert_`.

    Raises:
        ConfigError: The target is out of range, or no ratio comes within the tolerance; the message says what is
            possible.
        NothingToConvert: The dense model stores no more than the target.
        SpecError: The spec is unusable.
    """
    search = _Search(without_values(model), spec, target_bytes, tolerance, rules, quantize)
    best, overrides = search.best(), {}
    if search.miss(best) > search.enough and not rules.get("overrides"):
        for point in search.jump():
            layers = compressed_layers(search.convert(point.ratio))
            # a lone layer has no name to override
            held = {name: layer.held() for name, layer in layers.items() if name}
            smooth = _Search(search.model, spec, target_bytes, tolerance, {**rules, "overrides": held}, quantize)
            with contextlib.suppress(ConfigError):  # these layers may not become as small as the target
                if held and search.miss(again := smooth.best()) < search.miss(best):
                    best, overrides = again, held
            if search.miss(best) <= search.enough:
                break
    bits = (quantize or {}).get("bits", 32)
    return search.checked(Budget("bytes", target_bytes, best.cost, best.ratio, overrides, bits))


class _Search:
    """Bytes as a function of the ratio, for one model and spec."""

    def __init__(
        self,
        model: nn.Module,
        spec: Any,
        target: float,
        tolerance: float | None,
        rules: Mapping[str, Any],
        quantize: Mapping[str, Any] | None,
    ) -> None:
        self.model, self.target, self.tolerance = model, target, tolerance
        self.spec, self.rules, self.quantize = make_spec(spec, ratio=2.0), rules, quantize
        self.enough = TOLERANCE if tolerance is None else tolerance
        if self.spec.preset == "dense":
            raise ConfigError("a budget needs a preset that compresses, got dense: choose another preset")
        if not target > 0:
            raise ConfigError(f"a budget must be above 0 bytes, got {target:g}: leave it out to use the ratio")

    def _conversion(self, ratio: float) -> dict[str, Any]:
        return {"spec": self.spec.replace(ratio=ratio), **self.rules}

    def convert(self, ratio: float) -> nn.Module:
        return _converted(self.model, self._conversion(ratio), None)[0]

    def size(self, ratio: float) -> int:
        return _converted(self.model, self._conversion(ratio), self.quantize)[1]

    @cached_property
    def bracket(self) -> tuple[Point, Point]:
        """Two ratios, one step apart, that store more than the target and at most the target."""
        start, dense = Point(1.0, self.size(1.0)), report(self.model, coded=False).stored_bytes
        if self.target >= dense:
            raise NothingToConvert(
                f"a budget must be below the {dense:,} bytes of the dense model, got {self.target:,.0f}: use the model "
                "as it is, or ask for less"
            )
        points = descend(self.size, self.target, start, stride=_STRIDE, largest=_LARGEST_RATIO)
        if points[-1].cost > self.target:
            least = min(int(point.cost) for point in points)
            raise ConfigError(
                f"a budget for {self.spec.preset} on this model must be between {least:,} and {dense:,} bytes, "
                f"got {self.target:,.0f}: choose a size in this range, or include more layers"
            )
        return (points[-2] if len(points) > 1 else points[-1]), points[-1]

    def miss(self, point: Point) -> float:
        """How far bytes are from the target, as a share of it."""
        over = point.cost / self.target - 1
        return math.inf if self.tolerance is None and over > 0 else abs(over)

    @cached_property
    def points(self) -> list[Point]:
        """The points of a bisection; it ends early if one is near enough."""
        return narrow(self.size, self.target, *self.bracket, step=_STEP, enough=lambda p: self.miss(p) < _NEAR)

    def best(self) -> Point:
        """The point of a bisection that comes nearest to the target."""
        return min(self.points, key=self.miss)

    def jump(self) -> tuple[Point, Point]:
        """The points just beyond the jump that contains the target, where the model stores too little, and before it.

        Strides and offsets reach the target from the first one, folds from the second: their filters can share windows,
        but with fewer columns they cannot store more than a window for each filter.
        """
        points = [*self.bracket, *self.points]
        before = max((p for p in points if p.cost > self.target), key=lambda p: p.ratio, default=points[0])
        return smallest(points, self.target), before

    def checked(self, found: Budget) -> Budget:
        if self.tolerance is not None and abs(found.reached / self.target - 1) > self.tolerance:
            raise ConfigError(
                f"no ratio stores {self.target:,.0f} bytes within {self.tolerance:.2%}, the nearest size is "
                f"{found.reached:,.0f} (ratio {found.ratio:.4g}): ask for that, or raise tolerance"
            )
        return found


def _converted(
    model: nn.Module, conversion: Mapping[str, Any], quantize: Mapping[str, Any] | None
) -> tuple[nn.Module, int]:
    """A converted copy and its bytes; if no layer would shrink, the dense model."""
    twin = copied(model)
    try:
        with quiet():  # warnings are for the conversion that is kept
            stored = (convert_layers_(twin, **conversion) if conversion else report(twin, coded=False)).stored_bytes
        return twin, quantize_(twin, **quantize).after if quantize else stored
    except NothingToConvert:
        return twin, report(model, coded=False).stored_bytes
