"""Equal bytes: find the ratio at which a model stores a given number of bytes, everything counted."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autosample.errors import ConfigError, NothingToConvert
from autosample.model.convert import convert_
from autosample.model.quantize import quantize_
from autosample.model.report import report
from autosample.nn import compressed_layers
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec
from autosample.system.copying import copied

# A target counts as met within this share of it.
TOLERANCE = 0.01
_LARGEST_RATIO = 1e6
_STRIDE = 1.5
_STEPS = 60
# A search ends at this relative error.
_CLOSE = 5e-4


@dataclass(frozen=True)
class Fit:
    """The conversion with which a model stores the requested bytes.

    Attributes:
        ratio: Ratio of each layer: dense weights per stored number.
        stored_bytes: Size of the whole model then [bytes].
        overrides: Overrides for `convert_`, besides the ratio; empty if the ratio is enough.
    """

    ratio: float
    stored_bytes: int
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)


def stored_bytes(
    model_factory: Callable[[], nn.Module], *, quantize: Mapping[str, Any] | None = None, **conversion: Any
) -> int:
    """Bytes that a model stores, everything counted.

    Args:
        model_factory: Makes the dense model; called with the meta device as default, so nothing is allocated.
        quantize: Arguments of `quantize_`, if the model will be quantised.
        conversion: Arguments of `convert_`, `spec` among them; none for the dense model.
    """
    with torch.device("meta"):
        model = model_factory()
    return _converted(model, conversion, quantize)[1]


def fit_ratio(
    model_factory: Callable[[], nn.Module],
    spec: "str | Spec | Mapping[str, Any] | Path",
    target_bytes: float,
    *,
    tolerance: float = TOLERANCE,
    quantize: Mapping[str, Any] | None = None,
    **rules: Any,
) -> float:
    """The layer ratio at which the whole model stores `target_bytes`, by bisection.

    Everything counts: summaries at their precision, offsets at the bits they need, norms, biases, and layers that stay
    dense. Use `fit_budget` if a single ratio cannot meet the target, as with WSNet's whole strides.

    Args:
        model_factory: Makes the dense model; called once, with the meta device as default.
        spec: Preset, `Spec`, mapping or file; its own ratio is ignored.
        target_bytes: Size to meet [bytes].
        tolerance: Largest relative error.
        quantize: Arguments of `quantize_`, if the model will be quantised.
        rules: `include`, `exclude` and `overrides` of `convert_`.

    Raises:
        ConfigError: No ratio comes within the tolerance; the message gives the possible range.
        SpecError: The spec is unusable.
    """
    fit = _bisect(_search(model_factory, spec, rules, quantize), target_bytes)
    return _within(fit, target_bytes, tolerance).ratio


def fit_budget(
    model_factory: Callable[[], nn.Module],
    spec: "str | Spec | Mapping[str, Any] | Path",
    target_bytes: float,
    *,
    tolerance: float = TOLERANCE,
    quantize: Mapping[str, Any] | None = None,
    **rules: Any,
) -> Fit:
    """Like `fit_ratio`. If sizes jump past the target, it also fixes the windows and the rule of each layer.

    Sizes jump where whole strides change, where a rule takes fewer windows as its budget shrinks, and where learned
    offsets become too expensive. With fixed windows and rules, sizes follow the ratio smoothly (the strided rule then
    has the option `strides="any"`).
    """
    size = _search(model_factory, spec, rules, quantize)
    fit = _bisect(size, target_bytes)
    if _miss(fit, target_bytes) <= tolerance or rules.get("overrides"):
        return _within(fit, target_bytes, tolerance)
    layers = compressed_layers(size.convert(_below(size, target_bytes)))
    held: dict[str, dict[str, Any]] = {name: layer.held() for name, layer in layers.items() if name}
    if not held:  # a single layer has no name to override
        return _within(fit, target_bytes, tolerance)
    again = _bisect(_search(model_factory, spec, {**rules, "overrides": held}, quantize), target_bytes)
    best = min(fit, Fit(again.ratio, again.stored_bytes, held), key=lambda one: _miss(one, target_bytes))
    return _within(best, target_bytes, tolerance)


class _search:
    """Bytes as a function of the ratio, for one model and spec."""

    def __init__(
        self,
        model_factory: Callable[[], nn.Module],
        spec: Any,
        rules: Mapping[str, Any],
        quantize: Mapping[str, Any] | None,
    ) -> None:
        with torch.device("meta"):
            self.model = model_factory()
        self.spec, self.rules, self.quantize = make_spec(spec, ratio=2.0), rules, quantize
        if self.spec.preset == "dense":
            raise ConfigError("a budget needs a preset that compresses, got dense: choose another preset")

    def conversion(self, ratio: float) -> dict[str, Any]:
        return {"spec": self.spec.replace(ratio=ratio), **self.rules}

    def convert(self, ratio: float) -> nn.Module:
        return _converted(self.model, self.conversion(ratio), None)[0]

    def __call__(self, ratio: float) -> int:
        return _converted(self.model, self.conversion(ratio), self.quantize)[1]


def _converted(
    model: nn.Module, conversion: Mapping[str, Any], quantize: Mapping[str, Any] | None
) -> tuple[nn.Module, int]:
    """A converted copy and its bytes; if no layer would shrink, the dense model."""
    twin = copied(model)
    try:
        stored = (convert_(twin, **conversion) if conversion else report(twin)).stored_bytes
        return twin, quantize_(twin, **quantize).after if quantize else stored
    except NothingToConvert:
        return twin, report(model).stored_bytes


def _miss(fit: Fit, target: float) -> float:
    return abs(fit.stored_bytes / target - 1)


def _within(fit: Fit, target: float, tolerance: float) -> Fit:
    if _miss(fit, target) > tolerance:
        raise ConfigError(
            f"no ratio stores {target:,.0f} bytes within {tolerance:.2%}, the nearest size is {fit.stored_bytes:,} "
            f"(ratio {fit.ratio:.4g}): ask for that, or raise tolerance"
        )
    return fit


def _bracket(size: _search, target: float) -> tuple[float, float]:
    """Two ratios, one step apart, that store more than the target and at most the target.

    The first such step from the dense end is taken. At high ratios sizes can grow again, since rules that store an
    offset per window need more windows as the summary becomes short.

    Raises:
        ConfigError: The target is not above 0, or not in the possible range.
    """
    if not target > 0:
        raise ConfigError(f"a budget must be above 0 bytes, got {target:g}: leave it out to use the ratio")
    most = least = report(size.model).stored_bytes
    ratio = 1.0
    while target < most and ratio < _LARGEST_RATIO:
        stored = size(ratio * _STRIDE)
        if stored <= target:
            return ratio, ratio * _STRIDE
        least, ratio = min(least, stored), ratio * _STRIDE
    raise ConfigError(
        f"a budget for {size.spec.preset} on this model must be between {least:,} and {most:,} bytes, "
        f"got {target:,.0f}: choose a size in this range, or include more layers"
    )


def _bisect(size: _search, target: float) -> Fit:
    """The best result of a bisection in the logarithm of the ratio."""
    low, high = _bracket(size, target)
    best = Fit(high, size(high))
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        fit = Fit(middle, size(middle))
        best = min(best, fit, key=lambda one: _miss(one, target))
        if _miss(best, target) < _CLOSE or high / low < 1 + 1e-7:
            break
        low, high = (middle, high) if fit.stored_bytes > target else (low, middle)
    return best


def _below(size: _search, target: float) -> float:
    """A ratio just beyond the jump that contains the target: the model stores too little there."""
    low, high = _bracket(size, target)
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if size(middle) > target else (low, middle)
    return high
