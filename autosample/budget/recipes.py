"""Recipes within a budget: what is found is written into the recipe, so building it again measures nothing."""

from collections.abc import MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from autosample.artifact.checkpoint import without_fetching
from autosample.budget.find import check_budget, find_budget
from autosample.errors import ConfigError
from autosample.model.budget import Budget
from autosample.model.recipe import BUDGETS, Recipe
from autosample.sampling.spec import spec


def within(
    recipe: Recipe, *, bytes: float | None = None, latency: float | None = None, shape: Sequence[int] | None = None
) -> tuple[Recipe, Budget | None]:
    """The recipe with the ratio and overrides that meet a budget, and the budget; unchanged without one.

    Args:
        recipe: A recipe; nothing that it names is fetched or read.
        bytes, latency: As for `autosample.convert_`; latency is measured on the CPU.
        shape: Shape of one example, without the batch, for `latency`.

    Raises:
        ConfigError: The arguments are not usable, or nothing meets the budget.
        AutosampleError: As for `autosample.convert_`.
    """
    if bytes is latency is None:
        return recipe, None
    made = spec(recipe.spec)
    check_budget(made, bytes=bytes, latency=latency)
    with torch.random.fork_rng([]), torch.device("meta") if latency is None else nullcontext():
        net = replace(recipe, model_args=without_fetching(recipe.model_args)).bare()
    rules = {name: getattr(recipe, name) for name in ("include", "exclude", "overrides", "planned_bits")}
    budget = find_budget(net, made, bytes=bytes, latency=latency, example=_example(latency, shape), **rules)
    assert budget is not None
    own = {} if isinstance(recipe.spec, str) else dict(recipe.spec)
    overrides = {**(recipe.overrides or {}), **budget.overrides}
    sized: dict[str, Any] = {"preset": recipe.preset, **own, "ratio": budget.ratio}
    return replace(recipe, spec=sized, overrides=overrides or None), budget


def settled(settings: MutableMapping[str, Any]) -> tuple[Recipe, Budget | None]:
    """The recipe of a `Classifier` from its arguments, in which ratio and overrides take the place of a budget."""
    given = {name: settings.get(name) for name in ("bytes", "latency")}
    recipe, budget = within(Recipe.of(settings), **given, shape=settings.get("input"))
    if budget is not None:
        settings.update({name: value for name, value in recipe.arguments().items() if name in ("ratio", "overrides")})
    settings.update(dict.fromkeys(BUDGETS))
    return recipe, budget


def _example(latency: float | None, shape: Sequence[int] | None) -> torch.Tensor | None:
    if latency is None:
        return None
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ConfigError(f"latency needs the shape of one example, got {shape!r:.40}: pass input=[3, 224, 224]")
    return torch.zeros(1, *shape)
