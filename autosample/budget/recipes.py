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

# Budgets for which an example of the data is needed.
_OF_EXAMPLES = ("latency", "multiplications")


def within(
    recipe: Recipe,
    *,
    bytes: float | None = None,
    latency: float | None = None,
    multiplications: float | None = None,
    shape: Sequence[int] | None = None,
) -> tuple[Recipe, Budget | None]:
    """The recipe with the size and overrides that meet a budget, and the budget; unchanged without one.

    Args:
        recipe: A recipe; nothing that it names is fetched or read.
        bytes, latency, multiplications: As for `autosample.convert_`; latency is measured on the CPU.
        shape: Shape of one example, without the batch, for `latency` and `multiplications`.

    Raises:
        ConfigError: The arguments are not usable, or nothing meets the budget.
        AutosampleError: As for `autosample.convert_`.
    """
    asked = {"bytes": bytes, "latency": latency, "multiplications": multiplications}
    if all(value is None for value in asked.values()):
        return recipe, None
    made = spec(recipe.spec)
    check_budget(made, **asked)
    with torch.random.fork_rng([]), torch.device("meta") if latency is None else nullcontext():
        net = replace(recipe, model_args=without_fetching(recipe.model_args)).bare()
    rules = {name: getattr(recipe, name) for name in ("include", "exclude", "overrides", "planned_bits")}
    needs = next((name for name in _OF_EXAMPLES if asked[name] is not None), "")
    budget = find_budget(net, made, **asked, example=_example(needs, shape), **rules)
    assert budget is not None
    own = {} if isinstance(recipe.spec, str) else dict(recipe.spec)
    overrides = {**(recipe.overrides or {}), **budget.overrides}
    size = budget.size
    if "options" in size:
        size["options"] = {**(own.get("options") or {}), **size["options"]}
    return replace(recipe, spec={"preset": recipe.preset, **own, **size}, overrides=overrides or None), budget


def settled(settings: MutableMapping[str, Any]) -> tuple[Recipe, Budget | None]:
    """The recipe of a `Classifier` from its arguments, in which size and overrides take the place of a budget."""
    given = {name: settings.get(name) for name in ("bytes", *_OF_EXAMPLES)}
    recipe, budget = within(Recipe.of(settings), **given, shape=settings.get("input"))
    if budget is not None:
        found = ("ratio", "overrides", *(["spec_args"] if budget.products else []))
        settings.update({name: value for name, value in recipe.arguments().items() if name in found})
    settings.update(dict.fromkeys(BUDGETS))
    return recipe, budget


def _example(needs: str, shape: Sequence[int] | None) -> torch.Tensor | None:
    if not needs:
        return None
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        verb = "needs" if needs == "latency" else "need"
        raise ConfigError(f"{needs} {verb} the shape of one example, got {shape!r:.40}: pass input=[3, 224, 224]")
    return torch.zeros(1, *shape)
