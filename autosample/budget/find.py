"""From what a user asks for, bytes or milliseconds, to the ratio that meets it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.budget.latency import fit_latency
from autosample.budget.sizes import fit_budget
from autosample.deployment.verify import Example
from autosample.errors import ConfigError
from autosample.model.budget import Budget
from autosample.sampling.changes import COMPACTNESS
from autosample.sampling.checks import is_number
from autosample.sampling.spec import Spec


@torch.random.fork_rng([])  # the conversion that follows draws the same numbers as one at a given ratio
def find_budget(
    model: nn.Module, spec: Spec, *, bytes: float | None, latency: float | None, example: Example | None, **rules: Any
) -> Budget | None:
    """The ratio, and perhaps overrides, that meet a budget; `None` if no budget is given.

    Args:
        model: A dense model; it is not changed.
        spec: How layers are compressed, without a ratio if there is a budget.
        bytes, latency, example: As for `autosample.convert_`.
        rules: `include`, `exclude`, `overrides` and `planned_bits` of `convert_`.

    Raises:
        ConfigError: The arguments are not usable, or nothing meets the budget.
        NothingToConvert: The dense model meets it.
        SpecError, ConversionError: As for `autosample.convert_`.
    """
    check_budget(spec, bytes=bytes, latency=latency)
    if example is not None and latency is None:
        raise ConfigError("example is there to measure a latency, got none: pass latency=2.0 too, or leave example out")
    if bytes is not None:
        bits = rules["planned_bits"]
        if isinstance(bits, int) and 8 < bits < 32:
            raise ConfigError(
                f"with bytes, planned_bits must be from 2 to 8, as quantize_ takes them, or 32, got {bits}: pass 8"
            )
        quantize = {"bits": bits} if bits != 32 else None
        return fit_budget(model, spec, bytes, tolerance=None, quantize=quantize, **rules)
    if latency is None:
        return None
    _check_example(model, example)
    assert example is not None
    return fit_latency(model, spec, latency, example, **rules)


def check_budget(spec: Spec, *, bytes: Any, latency: Any) -> None:
    """Raise `ConfigError` if a budget is not usable, or if there are two, or one and a ratio."""
    options = {name: spec.options[name] for name in COMPACTNESS if spec.options.get(name)}
    given = {"ratio": spec.ratio, **options, "bytes": bytes, "latency": latency}
    told = [f"{name}={value!r:.40}" for name, value in given.items() if value is not None]
    if bytes is latency is None:
        return
    if spec.preset == "dense":
        raise ConfigError("a budget needs a preset that compresses, got dense: choose another preset")
    if len(told) > 1:
        got = " and ".join(told)
        raise ConfigError(f"ratio, bytes and latency exclude each other, got {got}: keep one (null removes another)")
    for name, value, unit, example in (
        ("bytes", bytes, "bytes", "bytes=500_000"),
        ("latency", latency, "milliseconds", "latency=2.0"),
    ):
        if value is not None and not (is_number(value) and value > 0):
            raise ConfigError(f"{name} must be a number of {unit} above 0, got {value!r:.40}: write {example}")


def _check_example(model: nn.Module, example: Any) -> None:
    if example is None:
        raise ConfigError(
            "latency needs an example to measure with, got none: pass example=torch.randn(1, 3, 224, 224)"
        )
    if not (isinstance(example, Tensor | tuple) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(example))):
        raise ConfigError(f"example must be a tensor or a tuple of inputs, got {example!r:.40}: pass torch.randn(…)")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ConfigError("latency needs a model with values to measure, got one on the meta device: load it first")
