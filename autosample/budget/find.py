"""From what a user asks for, bytes, milliseconds or multiplications, to the ratio that meets it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.budget.latency import fit_latency
from autosample.budget.multiplications import fit_multiplications
from autosample.budget.sizes import fit_budget
from autosample.deployment.verify import Example
from autosample.errors import ConfigError
from autosample.model.budget import Budget
from autosample.sampling.changes import COMPACTNESS
from autosample.sampling.checks import is_number
from autosample.sampling.spec import Spec


@torch.random.fork_rng([])  # the conversion that follows draws the same numbers as one at a given ratio
def find_budget(
    model: nn.Module,
    spec: Spec,
    *,
    bytes: float | None,
    latency: float | None,
    example: Example | None,
    multiplications: float | None = None,
    **rules: Any,
) -> Budget | None:
    """The ratio or products, and perhaps overrides, that meet a budget; `None` if no budget is given.

    Args:
        model: A dense model; it is not changed.
        spec: How layers are compressed, without a ratio if there is a budget.
        bytes, latency, example, multiplications: As for `autosample.convert_`.
        rules: `include`, `exclude`, `overrides` and `planned_bits` of `convert_`.

    Raises:
        ConfigError: The arguments are not usable, or nothing meets the budget.
        NothingToConvert: The dense model meets it.
        SpecError, ConversionError: As for `autosample.convert_`.
    """
    check_budget(spec, bytes=bytes, latency=latency, multiplications=multiplications)
    if example is not None and latency is None and multiplications is None:
        raise ConfigError("example is there to measure a latency, got none: pass latency=2.0 too, or leave example out")
    if bytes is not None:
        bits = rules["planned_bits"]
        if isinstance(bits, int) and 8 < bits < 32:
            raise ConfigError(
                f"with bytes, planned_bits must be from 2 to 8, as quantize_ takes them, or 32, got {bits}: pass 8"
            )
        quantize = {"bits": bits} if bits != 32 else None
        return fit_budget(model, spec, bytes, tolerance=None, quantize=quantize, **rules)
    if multiplications is not None:
        _check_input(example, "multiplications need an example to count with")
        return fit_multiplications(model, spec, multiplications, example, **rules)  # pyright: ignore
    if latency is None:
        return None
    _check_input(example, "latency needs an example to measure with")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ConfigError("latency needs a model with values to measure, got one on the meta device: load it first")
    assert example is not None
    return fit_latency(model, spec, latency, example, **rules)


def check_budget(spec: Spec, *, bytes: Any, latency: Any, multiplications: Any = None) -> None:
    """Raise `ConfigError` if a budget is not usable, or if there are two, or one and a ratio."""
    options = {name: spec.options[name] for name in COMPACTNESS if spec.options.get(name)}
    budgets = {"bytes": bytes, "latency": latency, "multiplications": multiplications}
    told = [f"{n}={v!r:.40}" for n, v in {"ratio": spec.ratio, **options, **budgets}.items() if v is not None]
    if all(value is None for value in budgets.values()):
        return
    if spec.preset == "dense":
        raise ConfigError("a budget needs a preset that compresses, got dense: choose another preset")
    if len(told) > 1:
        sizes = "ratio, bytes and latency" if multiplications is None else "ratio, products, bytes and multiplications"
        got = " and ".join(told)
        raise ConfigError(f"{sizes} exclude each other, got {got}: keep one (null removes another)")
    for name, unit, example in (
        ("bytes", "bytes", "bytes=500_000"),
        ("latency", "milliseconds", "latency=2.0"),
        ("multiplications", "multiplications of the whole net", "multiplications=5e6"),
    ):
        value = budgets[name]
        if value is not None and not (is_number(value) and value > 0):
            raise ConfigError(f"{name} must be a number of {unit} above 0, got {value!r:.40}: write {example}")


def _check_input(example: Any, needs: str) -> None:
    if example is None:
        raise ConfigError(f"{needs}, got none: pass example=torch.randn(1, 3, 224, 224)")
    if not (isinstance(example, Tensor | tuple) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(example))):
        raise ConfigError(f"example must be a tensor or a tuple of inputs, got {example!r:.40}: pass torch.randn(…)")
