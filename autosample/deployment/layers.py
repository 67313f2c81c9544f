"""How each layer of a model is computed: the plan, what is folded in, and the module that replaces it."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from autosample.deployment.chains import Chain
from autosample.deployment.folding import Following, swap
from autosample.deployment.parts import in_parts
from autosample.deployment.slow import is_slow, slow_plan
from autosample.deployment.verify import Example, arguments
from autosample.errors import ConversionError
from autosample.nn import Compressed, outer_modules
from autosample.nn.kinds import is_plain
from autosample.nn.lineage import Lineage, remember
from autosample.reuse.after import After
from autosample.reuse.planner import Plan
from autosample.system.hooks import has_hooks
from autosample.system.progress import tracked


@dataclass(frozen=True)
class PlannedLayer:
    """What was decided for one layer.

    Attributes:
        name: Name of the layer.
        plan: How the layer is computed, and why.
        folded: What was folded into the layer: `norm`, `relu`, `pool`, and `shortcut` before the ReLU of its block.
    """

    name: str
    plan: Plan
    folded: tuple[str, ...]


def plan_layers(
    model: nn.Module,
    chains: Mapping[str, Chain],
    inputs: Mapping[str, Tensor],
    *,
    measure: bool,
    fuse: bool,
    dense: bool = False,
) -> tuple[nn.Module, list[PlannedLayer]]:
    """Plan every layer of a model and replace it by what computes it.

    Args:
        model: A hardened model in evaluation mode; it is changed in place.
        chains: Result of `find_chains`.
        inputs: Result of `layer_inputs`.
        measure, fuse: As for `deploy`.
        dense: Make all layers dense.

    Returns:
        The model (a new module only if it is a single layer) and the decisions.
    """
    rows = []
    layers = [(n, layer) for n, layer in outer_modules(model) if n in chains or isinstance(layer, Compressed)]
    for name, layer in tracked(layers, len(layers), "planning"):
        planned = _plan(model, layer, chains.get(name), inputs.get(name), measure, fuse, dense)
        model, row = _put(model, layer, name, planned, inputs.get(name) if measure and fuse else None)
        rows += [row] if row is not None else []
    return model.eval(), rows


@dataclass(frozen=True)
class _Planned:
    """A plan before it is applied.

    Attributes:
        module: What replaces the layer, or `None` if the dense layer stays.
        follow: What can be folded into the layer.
        source: A copy of the original layer, if it is compressed.
    """

    plan: Plan
    module: nn.Module | None
    follow: Following
    source: Compressed | None


def _plan(
    model: nn.Module, layer: nn.Module, chain: Chain | None, x: Tensor | None, measure: bool, fuse: bool, dense: bool
) -> _Planned:
    """Plan one layer. Nothing is folded into a layer without a chain, or into one that must keep its class."""
    own = "no other plan is known" if chain is None else _own_way(layer, chain)
    follow = Following(model, Chain(layer="") if own or chain is None else chain)
    if not isinstance(layer, Compressed):
        plan, found = Plan("dense", own or "not converted"), None
        if measure and fuse and not own:
            plan, found = _slow(layer, follow, x, plan)
        return _Planned(plan, found, follow, None)
    source = copy.deepcopy(layer)
    if not layer.has_weight and ("forward" in vars(layer) or has_hooks(layer)):
        raise ConversionError(
            "deploy replaces layers that no dense layer stands for, got one with hooks or a forward pass of its own: "
            "remove these first"
        )
    if (own or dense) and layer.has_weight:
        return _Planned(Plan("dense", own or "the whole model is faster with dense layers"), None, follow, source)
    inside = follow.disjoint
    after = inside.after(cast(Tensor | None, layer.bias))
    plan, module = layer.plan(x, after, lambda: _dense(layer, inside), measure=measure, fuse=fuse)
    if module is None and measure and fuse:
        plan, module = _slow(copy.deepcopy(layer).to_dense_(), follow, x, plan)
    return _Planned(plan, module, follow, source)


def _slow(layer: nn.Module, follow: Following, x: Tensor | None, plan: Plan) -> tuple[Plan, nn.Module | None]:
    """The kernel for a dense layer that torch computes slowly, if it is faster; else `plan`, which is the dense layer.

    A batch in parts has its pool inside too, and is preferred.
    """
    if x is None or not is_slow(layer, x):
        return plan, None
    conv = cast(nn.Conv1d | nn.Conv2d, layer)
    folded = cast(nn.Sequential, _dense(conv, follow))[0]  # as it is when it takes the batch in parts: measured once
    if in_parts(folded, follow.relu, follow.pool, x) is not None:
        return plan, None
    inside = follow.disjoint
    found = slow_plan(conv, x, inside.after(conv.bias), lambda: _dense(conv, inside))
    return (replace(found[0], reason=f"{plan.reason}; {found[0].reason}"), found[1]) if found else (plan, None)


def _dense(layer: nn.Module, follow: Following) -> nn.Module:
    """The dense layer and what follows it, for comparison."""
    twin = copy.deepcopy(layer)
    twin = twin.to_dense_() if isinstance(twin, Compressed) else twin
    follow.fold_into(twin)
    return nn.Sequential(twin, *([nn.ReLU()] if follow.relu else []), follow.pool or nn.Identity())


def _put(
    model: nn.Module, layer: nn.Module, name: str, planned: _Planned, x: Tensor | None
) -> tuple[nn.Module, PlannedLayer | None]:
    """Apply a plan; with `x`, a dense convolution may process the batch in parts, if that is faster."""
    plan, module, follow, source = planned.plan, planned.module, planned.follow, planned.source
    after = follow.disjoint.after(cast(Tensor | None, layer.bias))
    if module is not None:
        follow, made = follow.disjoint, module
    else:
        if isinstance(layer, Compressed):
            layer.to_dense_()
        follow.fold_into(layer)
        after, made = After(after.scale, after.shift), layer
        if x is not None and (parts := in_parts(layer, follow.relu, follow.pool, x)) is not None:
            module, made, plan = parts[0], parts[0].conv, replace(plan, reason=f"{plan.reason}; {parts[1]}")
    if source is not None:
        remember(made, Lineage(source, after))
    if module is None:
        follow.drop()
        folded = ("norm",) if follow.norm is not None else ()
        return model, PlannedLayer(name, plan, folded) if folded or source is not None else None
    follow.drop(rest=True)
    for constant in cast(nn.Conv1d, layer).__constants__:  # a model may read its kernel size, for example
        setattr(module, constant, getattr(layer, constant))
    return swap(model, layer, module), PlannedLayer(name, plan, follow.names)


def _own_way(layer: nn.Module, chain: Chain) -> str:
    """Why a layer must keep its class; empty if it need not."""
    kind = layer.dense_class if isinstance(layer, Compressed) else type(layer)
    if not is_plain(kind) or "forward" in vars(layer):
        return f"{kind.__name__} has its own forward pass"
    if has_hooks(layer):
        return "it has hooks"
    return "its parameters are used elsewhere" if chain.lent else ""


def layer_inputs(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """The first input of each layer in a run on the example: of the same shape, type and device, but without memory."""
    seen: dict[str, Tensor] = {}

    def hook(name: str):
        def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = args[0] if args else kwargs["input"]
            seen.setdefault(name, x.new_empty(()).expand(x.shape))

        return keep

    layers = ((n, m) for n, m in outer_modules(model) if isinstance(m, Compressed | nn.Conv1d | nn.Conv2d))
    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers]
    try:
        model(*arguments(example))
    finally:
        for handle in handles:
            handle.remove()
    return seen
