"""Budgets of time: the smallest ratio at which the deployed model is fast enough on this machine."""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.budget.search import Point, descend, narrow, smallest
from autosample.deployment.deploy import deploy
from autosample.deployment.verify import Example, arguments
from autosample.errors import ConfigError, NothingToConvert
from autosample.model.budget import Budget
from autosample.model.convert import convert_layers_
from autosample.sampling.spec import Spec
from autosample.system.copying import copied, without_values
from autosample.system.quiet import quiet
from autosample.system.timing import Timing, time_in_turn

# Beyond this ratio little is left to gain, and each ratio takes seconds to deploy.
_LARGEST_RATIO = 256
_STRIDE, _STEP = 2.0, 1.1


def time_deployed(model: nn.Module, example: Example) -> Timing:
    """Time of a forward pass of the deployed model, on the device of the example and with the current threads.

    Raises:
        ConversionError: The example is not an input of the model.
    """
    fast, args = deploy(model, example), arguments(example)
    device = next((leaf.device for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), None)
    with torch.inference_mode():
        return time_in_turn([lambda: fast(*args)], rounds=30, device=device)[0]


def fit_latency(model: nn.Module, spec: Spec, target: float, example: Example, **rules: Any) -> Budget:
    """The smallest ratio, so the most stored numbers, at which a forward pass takes at most `target` milliseconds.

    Converted copies are deployed and timed at a few ratios: at powers of 2 up to the first that is fast enough, then by
    bisection. Times do not depend on weights, so the copies have random ones.

    Args:
        model: A dense model; it is not changed.
        spec: Its own ratio is ignored.
        target: Largest median time [ms].
        example: An input, or a tuple of inputs.
        rules: `include`, `exclude`, `overrides` and `planned_bits` of `convert_`.

    Raises:
        ConfigError: No ratio is fast enough; the message names the fastest.
        NothingToConvert: The dense model is fast enough.
        ConversionError: The model cannot be converted, or the example is not an input of it.
    """
    _converted(without_values(model), spec.replace(ratio=_STRIDE), rules)  # mistakes are told before anything is timed

    def cost(ratio: float) -> float:
        twin = _converted(_with_fresh_norms(model), spec.replace(ratio=ratio), rules)
        return 1e3 * time_deployed(twin, example).median

    dense = Point(1.0, 1e3 * time_deployed(_with_fresh_norms(model), example).median)
    if dense.cost <= target:
        raise NothingToConvert(
            f"a latency must be below the {_told(dense.cost)} ms that the dense model takes here, deployed, got "
            f"{target:g} ms: use the model as it is, or ask for less"
        )
    points = descend(cost, target, dense, stride=_STRIDE, largest=_LARGEST_RATIO)
    if points[-1].cost > target:
        best = min(points, key=lambda point: point.cost)
        where = "the dense model" if best is dense else f"ratio {best.ratio:g}"
        raise ConfigError(
            f"a latency for {spec.preset} on this model must be at least {_told(best.cost)} ms, the fastest plan found "
            f"here ({where}), got {target:g} ms: ask for that, or include more layers"
        )
    found = smallest(narrow(cost, target, *points[-2:], step=_STEP), target)
    return Budget("latency", target, found.cost, found.ratio, threads=torch.get_num_threads())


def _told(milliseconds: float) -> str:
    """Rounded up to microseconds, so that asking for it is enough."""
    return f"{math.ceil(1e3 * milliseconds) / 1e3:g}"


def _with_fresh_norms(model: nn.Module) -> nn.Module:
    """A copy whose batch norms do not expect trained weights: outputs of random ones could overflow."""
    twin = copied(model)
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    return twin


def _converted(model: nn.Module, spec: Spec, rules: Any) -> nn.Module:
    """The model, converted if any layer would become smaller."""
    # warnings are for the conversion that is kept
    with quiet(), contextlib.suppress(NothingToConvert):
        convert_layers_(model, spec, **rules)
    return model
