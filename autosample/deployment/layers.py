"""How each layer of a model is computed: the plan, what is folded in, and the module that takes its place."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from autosample.deployment.chains import HOOKS, Chain
from autosample.deployment.folding import Following, swap
from autosample.deployment.parts import in_parts
from autosample.deployment.verify import Example, arguments
from autosample.nn import SummaryLayer, outer_modules
from autosample.nn.dense import to_dense_
from autosample.nn.execution import is_plain, layer_frame, layer_task, reusable
from autosample.nn.lineage import Lineage, remember
from autosample.reuse.after import After
from autosample.reuse.planner import Plan, choose
from autosample.reuse.plans import Operands
from autosample.reuse.plans.base import Pad
from autosample.system.progress import tracked


@dataclass(frozen=True)
class PlannedLayer:
    """What was decided for one layer.

    Attributes:
        name: Of the layer.
        plan: How it is computed and why.
        folded: What was folded into it: `norm`, `relu`, `pool`.
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
    """Plan every layer of a model and put in its place what computes it.

    Args:
        model: Hardened, in evaluation mode; it is changed in place.
        chains: What `find_chains` found.
        inputs: What `layer_inputs` found.
        measure, fuse: As for `deploy`.
        dense: Let all layers become dense.

    Returns:
        The model, which is another module only if it is a single layer itself, and what was decided.
    """
    rows = []
    layers = [(n, layer) for n, layer in outer_modules(model) if n in chains or isinstance(layer, SummaryLayer)]
    for name, layer in tracked(layers, len(layers), "planning"):
        planned = _plan(model, layer, chains.get(name), inputs.get(name), measure, fuse, dense)
        model, row = _put(model, layer, name, planned, inputs.get(name) if measure and fuse else None)
        rows += [row] if row is not None else []
    return model.eval(), rows


@dataclass(frozen=True)
class _Planned:
    """A plan before it is carried out.

    Attributes:
        module: What takes the layer's place, or `None` where the dense layer stays.
        follow: What can be folded into the layer.
        source: A copy of the layer as it was, if it is a compressed one.
    """

    plan: Plan
    module: nn.Module | None
    follow: Following
    source: SummaryLayer | None


def _plan(
    model: nn.Module, layer: nn.Module, chain: Chain | None, x: Tensor | None, measure: bool, fuse: bool, dense: bool
) -> _Planned:
    """Plan one layer. A layer without a chain, or one with a way of its own, has nothing folded into it."""
    own = "no other plan is known" if chain is None else _own_way(layer, chain)
    follow = Following(model, Chain(layer="") if own or chain is None else chain)
    if not isinstance(layer, SummaryLayer):
        return _Planned(Plan("dense", own or "not converted"), None, follow, None)
    source = copy.deepcopy(layer)
    if own or dense:
        return _Planned(Plan("dense", own or "as a whole, the model is faster so"), None, follow, source)
    inside = follow.disjoint
    plan, module = summary_plan(
        layer, x, inside.after(layer.bias), lambda: _dense(layer, inside), measure=measure, fuse=fuse
    )
    return _Planned(plan, module, follow, source)


def _dense(layer: SummaryLayer, follow: Following) -> nn.Module:
    """The dense layer and what follows it, to compare with."""
    twin = to_dense_(copy.deepcopy(layer))
    follow.fold_into(twin)
    return nn.Sequential(twin, *([nn.ReLU()] if follow.relu else []), follow.pool or nn.Identity())


def _put(
    model: nn.Module, layer: nn.Module, name: str, planned: _Planned, x: Tensor | None
) -> tuple[nn.Module, PlannedLayer | None]:
    """Carry out a plan; with `x`, a dense convolution may take the batch in parts, if that is faster."""
    plan, module, follow, source = planned.plan, planned.module, planned.follow, planned.source
    after = follow.disjoint.after(cast(Tensor | None, layer.bias))
    if module is not None:
        follow, made = follow.disjoint, module
    else:
        if isinstance(layer, SummaryLayer):
            to_dense_(layer)
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
    for constant in cast(nn.Conv1d, layer).__constants__:  # a model may ask for its kernel size and the like
        setattr(module, constant, getattr(layer, constant))
    return swap(model, layer, module), PlannedLayer(name, plan, follow.names)


def _own_way(layer: nn.Module, chain: Chain) -> str:
    """Why a layer has to stay a module of its own kind; empty if it need not."""
    kind = layer._dense_class if isinstance(layer, SummaryLayer) else type(layer)
    if not is_plain(kind) or "forward" in vars(layer):
        return f"{kind.__name__} has a forward pass of its own"
    if any(getattr(layer, hooks) for hooks in HOOKS):
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

    layers = ((n, m) for n, m in outer_modules(model) if isinstance(m, SummaryLayer | nn.Conv1d | nn.Conv2d))
    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers]
    try:
        model(*arguments(example))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def summary_plan(
    layer: SummaryLayer, x: Tensor | None, after: After, dense: Callable[[], nn.Module], *, measure: bool, fuse: bool
) -> tuple[Plan, nn.Module | None]:
    """The plan of a summary layer for an input like `x`, and its module; `None` for the module if it stays dense.

    Args:
        layer: Hardened.
        x: Of the shape, type and device of the inputs, whatever its numbers; `None` if no input is known.
        after: What follows the layer.
        dense: Makes the dense layer with what follows, to compare with.
        measure, fuse: As for `deploy`.
    """
    if why := reusable(layer):
        return Plan("dense", why), None
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    task = layer_task(layer)
    if task is None:
        return Plan("dense", "its windows share no work"), None
    if x is None:
        return Plan("dense", "the example does not reach it"), None
    frame, pad = layer_frame(layer)
    shape = tuple(x.shape) if x.dim() > len(frame.kernel) + 1 else (1, *x.shape)
    operands = _operands(layer, after, pad)
    return choose(task, frame, shape, operands, dense, device=x.device, dtype=x.dtype, fuse=fuse, measure=measure)


def _operands(layer: SummaryLayer, after: After, pad: Pad | None) -> Operands:
    """The numbers of a layer with a norm folded in: into the mixing matrix if there is one, else into the factors."""
    bias = None if after.shift is None else after.shift.to(layer.summary.dtype)
    factors, mix = layer._factors(), layer.densify
    if after.scale is not None and mix is not None:
        mix = mix * after.scale.to(mix)[:, None]
    elif after.scale is not None:
        scale = after.scale.to(layer.summary)[:, None]
        factors = scale if factors is None else factors * scale
    return Operands(layer.summary, factors, bias, mix, pad, after.relu, after.pool)
