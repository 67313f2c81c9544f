"""From a trained model to a plain one for inference: norms folded in, and the fastest exact plan for each layer."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map_only

from autosample.deployment.chains import HOOKS, Chain, find_chains
from autosample.deployment.folding import Following, swap
from autosample.deployment.parts import ConvInParts, in_parts
from autosample.errors import ConversionError
from autosample.model.convert import harden_
from autosample.nn import SummaryLayer, outer_modules
from autosample.nn.dense import to_dense_
from autosample.nn.execution import is_plain, layer_frame, layer_task, reusable
from autosample.nn.lineage import Lineage, remember
from autosample.reuse.layer import WindowConv
from autosample.reuse.planner import MARGIN, Plan, choose
from autosample.system.difference import largest_difference
from autosample.system.progress import tracked
from autosample.system.tables import as_text, make_table
from autosample.system.timing import time_in_turn

Model = TypeVar("Model", bound=nn.Module)
Example = Tensor | tuple[Any, ...]
# How far outputs may be from those of the hardened model, relative to the largest.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}


@dataclass(frozen=True)
class Placed:
    """What became of one layer.

    Attributes:
        name: Of the layer.
        plan: How it is computed and why.
        folded: What was folded into it: `norm`, `relu`, `pool`.
    """

    name: str
    plan: Plan
    folded: tuple[str, ...]


@dataclass(frozen=True)
class Deployment:
    """What became of the layers of a deployed model; prints as a table.

    Attributes:
        rows: One for each convolution and linear layer that was converted or into which something was folded.
        error: Largest difference of the outputs for the example from those of the hardened model, relative to the
            largest of these.
        stored_bytes, dense_bytes: Of the model that was deployed, as `autosample.report` counts them.
    """

    rows: tuple[Placed, ...]
    error: float
    stored_bytes: int
    dense_bytes: int

    def __str__(self) -> str:
        heads = ("layer", "plan", "dense [ms]", "plan [ms]", "fewer MACs", "folded in", "why")
        return as_text(make_table(heads, map(_cells, self.rows), left=("layer", "plan", "folded in", "why")), width=140)


def _cells(row: Placed) -> list[str]:
    p = row.plan
    times = ("" if t is None else f"{1e3 * t:.3f}" for t in (p.dense_seconds, p.seconds))
    saving = f"{p.saving:.1f}x" if p.kind != "dense" else ""
    return [row.name or "(itself)", p.kind, *times, saving, " ".join(row.folded), p.reason]


@torch.inference_mode(False)  # what is made under it could not be loaded into or exported later
@torch.no_grad()
@torch.random.fork_rng([])
def deploy(
    model: Model,
    example: Example,
    *,
    measure: bool = True,
    fuse: bool = True,
) -> Model:
    """A copy of a model for inference: hardened, norms folded in, every layer computed in the fastest exact way.

    The result is a plain module in evaluation mode without autosample's layers in it: those that can reuse work have
    become `WindowConv`, the others their dense torch twins. Its attribute `deployment` says what became of each
    layer and why. It gives the same outputs for inputs of any size; the plans are chosen for the size of `example`,
    on its device and with the present number of threads.

    Args:
        model: A model or a single layer, converted or not.
        example: An input, or a tuple of inputs; its batch counts.
        measure: Time promising plans on this device, and take one only if it beats the dense layer. Otherwise a cost
            model decides.
        fuse: Use the fused C++ kernel where it runs (it is built on first use). Without it the result consists of
            standard operators only.

    Raises:
        ConversionError: The example is no input, or the outputs would not be those of the model.
    """
    if not isinstance(example, Tensor | tuple):
        kind = type(example).__name__
        raise ConversionError(f"deploy needs an example input, got a {kind}: pass a tensor, or a tuple of all inputs")
    fast = hardened(model)
    sizes = _sizes(fast)
    chains, inputs, expected = find_chains(fast, example), _inputs(fast, example), _outputs(fast, example)
    dense = copy.deepcopy(fast) if measure else None
    fast, rows = _place_all(fast, chains, inputs, measure=measure, fuse=fuse)
    error = largest_difference(expected, _outputs(fast.eval(), example)).relative
    if not error <= _allowed(expected):
        raise ConversionError(
            f"outputs must stay the same, got a relative difference of {error:.2g}: report this model"
        )
    if dense is not None:
        ways = [(fast, rows)]
        if any(row.plan.kind != "dense" for row in rows):
            ways.append(_place_all(dense, chains, inputs, measure=measure, fuse=fuse, whole=True))
        fast, rows = _fastest(ways, example, expected)
    object.__setattr__(fast, "deployment", Deployment(tuple(rows), error, *sizes))
    return cast(Model, fast)


def _place_all(
    model: nn.Module,
    chains: Mapping[str, Chain],
    inputs: Mapping[str, Tensor],
    *,
    measure: bool,
    fuse: bool,
    whole: bool = False,
) -> tuple[nn.Module, list[Placed]]:
    """The model with every layer planned, and what became of the layers; with `whole`, all of them dense."""
    rows = []
    layers = [(name, layer) for name, layer in outer_modules(model) if name in chains]
    for name, layer in tracked(layers, len(layers), "planning"):
        chain, x = chains[name], inputs.get(name)
        model, row = _place(model, layer, chain, x, measure=measure, fuse=fuse, whole=whole)
        rows += [row] if row is not None else []
    return model.eval(), rows


def _sizes(model: nn.Module) -> tuple[int, int]:
    """Bytes that a model stores, and those of its dense twin."""
    from autosample.model.report import report

    sizes = report(model)
    return sizes.stored_bytes, sizes.dense_bytes


def hardened(model: nn.Module) -> nn.Module:
    """A hardened copy in evaluation mode; weights that are computed from others become what they are."""
    fast = copy.deepcopy(model).eval()
    for module in [m for m in fast.modules() if parametrize.is_parametrized(m)]:
        values = {name: getattr(module, name).clone() for name in cast(nn.ModuleDict, module.parametrizations)}
        # not by `remove_parametrizations`: it changes the class, which the model given has as well
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    if any(isinstance(m, SummaryLayer) for m in fast.modules()):
        harden_(fast)
    return fast.requires_grad_(False)


def _place(
    model: nn.Module, layer: nn.Module, chain: Chain, x: Tensor | None, *, measure: bool, fuse: bool, whole: bool
) -> tuple[nn.Module, Placed | None]:
    """Plan one layer and put its module in its place; returns the model, which may be the layer itself."""
    own = _own_way(layer, chain)
    follow = Following(model, Chain(chain.layer) if own else chain)
    plan, module, converted = Plan("dense", own or "not converted"), None, isinstance(layer, SummaryLayer)
    source = copy.deepcopy(layer) if converted else None
    affine = follow.affine(cast(Tensor | None, layer.bias))
    if isinstance(layer, SummaryLayer):
        if not own and whole:
            plan = Plan("dense", "as a whole, the model is faster so")
        elif not own:
            plan, module = _plan(layer, follow.disjoint, x, measure, fuse)
        if module is None:
            to_dense_(layer)
    if module is None:
        follow.fold_into(layer)
        parts = in_parts(layer, follow.relu, follow.pool, x) if x is not None and measure and fuse else None
        if parts is None:
            follow.drop()
            if source is not None:
                remember(layer, Lineage(cast(SummaryLayer, source), *affine))
            folded = ("norm",) if follow.norm is not None else ()
            return model, Placed(chain.layer, plan, folded) if folded or converted else None
        if source is not None:
            remember(parts[0].conv, Lineage(cast(SummaryLayer, source), *affine))
        module, plan = parts[0], replace(plan, reason=f"{plan.reason}; {parts[1]}")
    else:
        follow = follow.disjoint
        remember(module, Lineage(cast(SummaryLayer, source), *affine, follow.relu, follow.window))
    follow.drop(rest=True)
    for name in cast(nn.Conv1d, layer).__constants__:  # a model may ask for its kernel size and the like
        setattr(module, name, getattr(layer, name))
    return swap(model, layer, module), Placed(chain.layer, plan, follow.names)


def _own_way(layer: nn.Module, chain: Chain) -> str:
    """Why a layer has to stay a module of its own kind; empty if it need not."""
    kind = layer._dense_class if isinstance(layer, SummaryLayer) else type(layer)
    if not is_plain(kind) or "forward" in vars(layer):
        return f"{kind.__name__} has a forward pass of its own"
    if any(getattr(layer, hooks) for hooks in HOOKS):
        return "it has hooks"
    return "its parameters are used elsewhere" if chain.lent else ""


def _plan(
    layer: SummaryLayer, follow: Following, x: Tensor | None, measure: bool, fuse: bool
) -> tuple[Plan, nn.Module | None]:
    """The plan of a plain summary layer and its module, `None` for dense."""
    if why := reusable(layer):
        return Plan("dense", why), None
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    task = layer_task(layer)
    if task is None:
        return Plan("dense", "its windows share no work"), None
    if x is None:
        return Plan("dense", "the example does not reach it"), None
    frame, pad = layer_frame(layer)
    scale, shift = follow.affine(layer.bias)
    bias = None if shift is None else shift.to(layer.summary.dtype)
    factors, mix = layer._factors(), layer.densify
    mixed = 0 if mix is None else len(mix)
    if scale is not None and mix is not None:
        mix = mix * scale.to(mix)[:, None]
    elif scale is not None:
        scale = scale.to(layer.summary)[:, None]
        factors = scale if factors is None else factors * scale

    def build(kind: str, way) -> nn.Module:
        return WindowConv(
            way, frame, way.source(layer.summary), factors=factors, bias=bias, mix=mix, pad=pad,
            relu=follow.relu, pool=follow.window, kernel=kind == "fused",
        )  # fmt: skip

    def dense() -> nn.Module:
        twin = to_dense_(copy.deepcopy(layer))
        follow.fold_into(twin)
        return nn.Sequential(twin, *([nn.ReLU()] if follow.relu else []), follow.pool or nn.Identity())

    shape = tuple(x.shape) if x.dim() > len(frame.kernel) + 1 else (1, *x.shape)
    also = (pad, follow.relu, follow.window, bias is None, None if factors is None else tuple(factors.shape))
    return choose(
        task, frame, shape, dense, build,
        device=x.device, dtype=x.dtype, fuse=fuse, measure=measure, mixed=mixed, also=also,
    )  # fmt: skip


def _fastest(
    ways: Sequence[tuple[nn.Module, list[Placed]]], example: Example, expected: list[Tensor]
) -> tuple[nn.Module, list[Placed]]:
    """The fastest of several models that do the same, in either memory format.

    Layers were timed one by one: as a whole, what lies between them counts too, such as changes of the memory format.
    The usual format is given up for a clear gain only where layers reuse work, as they want it; kept for one only
    where all are dense: compilers make more of channels last than eager torch.
    """
    sides: list[tuple[nn.Module, list[Placed], float]] = []
    for model, rows in ways:
        other = _channels_last(model, example, expected)
        usual = other is None or any(isinstance(m, WindowConv) for m in model.modules())
        sides.append((model, rows, MARGIN if usual else 1.0))
        sides += [] if other is None else [(other, rows, 1.0 if usual else MARGIN)]
    if len(sides) == 1:
        return sides[0][:2]
    args = arguments(example)
    device = next((t.device for t in tree_leaves(args) if isinstance(t, Tensor)), None)
    taken = time_in_turn([lambda m=m: m(*args) for m, _, _ in sides], rounds=9, device=device)
    counted = [t.median * favour for t, (_, _, favour) in zip(taken, sides, strict=True)]
    return sides[counted.index(min(counted))][:2]


def _channels_last(model: nn.Module, example: Example, expected: list[Tensor]) -> nn.Module | None:
    """The model with channels last in what is still dense; `None` if that is nothing, or it does not work so."""
    other = copy.deepcopy(model)
    settled = {m.conv for m in other.modules() if isinstance(m, ConvInParts)}
    convs = [m for m in other.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m not in settled]
    for conv in convs:
        cast(Any, conv).to(memory_format=torch.channels_last)  # strides of 1x1 weights too, which `contiguous` leaves
    try:
        if not convs or not largest_difference(expected, _outputs(other, example)).relative <= _allowed(expected):
            return None
    except RuntimeError:  # it may take views that only torch's usual layout allows
        return None
    return other


def arguments(example: Example) -> tuple:
    """The example as arguments; copies, for the model may begin with something in place."""
    return tree_map_only(Tensor, torch.clone, example if isinstance(example, tuple) else (example,))


def _inputs(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """What each layer was given in a run on the example: the shape, type and device of it, but no numbers."""
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


def _outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """All numbers that the model returns, drawing the same random ones (on the CPU) each time."""
    torch.default_generator.manual_seed(0)
    out = model(*arguments(example))
    return [t for t in tree_leaves(out) if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())]


def _allowed(expected: Sequence[Tensor]) -> float:
    return max((_TOLERANCE.get(t.dtype, 5e-2) for t in expected), default=0.0)
