"""From a trained model to a plain one for inference: norms folded in, and the fastest exact plan for each layer."""

import copy
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.chains import Chain, find_chains, norm_affine
from autosample.convert import harden_
from autosample.errors import ConversionError
from autosample.nn import SummaryLayer, outer_modules
from autosample.nn.dense import to_dense_
from autosample.nn.execution import layer_frame, layer_task, reusable
from autosample.progress import tracked
from autosample.reuse.layer import WindowConv
from autosample.reuse.planner import MARGIN, Plan, choose
from autosample.timing import time_in_turn

Model = TypeVar("Model", bound=nn.Module)
_PLAIN = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Linear.forward)
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
    """

    rows: tuple[Placed, ...]
    error: float

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for head in ("layer", "plan", "dense [ms]", "plan [ms]", "fewer MACs", "folded in", "why"):
            table.add_column(head, justify="left" if head in ("layer", "plan", "folded in", "why") else "right")
        for row in self.rows:
            p = row.plan
            times = ("" if t is None else f"{1e3 * t:.3f}" for t in (p.dense_seconds, p.seconds))
            saving = f"{p.saving:.1f}x" if p.kind != "dense" else ""
            table.add_row(row.name or "(itself)", p.kind, *times, saving, " ".join(row.folded), p.reason)
        console = Console(file=io.StringIO(), width=140)
        console.print(table)
        return cast(io.StringIO, console.file).getvalue().rstrip()


def deploy(
    model: Model,
    example: Tensor | tuple[Tensor, ...],
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
        ConversionError: The outputs would not be those of the model.
    """
    fast = copy.deepcopy(model)
    if any(isinstance(m, SummaryLayer) for m in fast.modules()):
        harden_(fast)
    fast.eval().requires_grad_(False)
    chains = find_chains(fast, example)
    inputs = _inputs(fast, example)
    expected = _outputs(fast, example)
    rows: list[Placed] = []
    layers = [(name, layer) for name, layer in outer_modules(fast) if name in chains]
    for name, layer in tracked(layers, len(layers), "planning"):
        chain = chains[name] if type(layer).forward in _PLAIN or isinstance(layer, SummaryLayer) else Chain(name)
        fast, row = _place(fast, layer, chain, inputs.get(name), measure=measure, fuse=fuse)
        rows += [row] if row is not None else []
    error = _difference(expected, _outputs(fast, example))
    allowed = max(_TOLERANCE.get(t.dtype, 5e-2) for t in (*expected, torch.empty(0)))
    if not error <= allowed:
        raise ConversionError(
            f"outputs must stay the same, got a relative difference of {error:.2g}: report this model"
        )
    object.__setattr__(fast, "deployment", Deployment(tuple(rows), error))
    if not measure:
        return cast(Model, fast)
    return cast(Model, _memory_format(fast, example))
    return cast(Model, fast)


def _place(
    model: nn.Module, layer: nn.Module, chain: Chain, x: Tensor | None, *, measure: bool, fuse: bool
) -> tuple[nn.Module, Placed | None]:
    """Plan one layer and put its module in its place; returns the model, which may be the layer itself."""
    follow = _Following(model, chain)
    if not isinstance(layer, SummaryLayer):
        if follow.norm is None or type(layer).forward not in _PLAIN:
            return model, None
        follow.fold_into(layer)
        follow.drop(model, norm=True)
        return model, Placed(chain.layer, Plan("dense", "not converted"), ("norm",))
    plain = layer._dense_class.forward in _PLAIN
    plan, module = _plan(layer, follow, x, measure, fuse)
    if module is None:
        to_dense_(layer)
        if plain and follow.norm is not None:
            follow.fold_into(layer)
            follow.drop(model, norm=True)
        return model, Placed(chain.layer, plan, ("norm",) if plain and follow.norm is not None else ())
    follow.drop(model, norm=True, rest=True)
    return _swap(model, layer, module), Placed(chain.layer, plan, follow.names)


def _plan(
    layer: SummaryLayer, follow: "_Following", x: Tensor | None, measure: bool, fuse: bool
) -> tuple[Plan, nn.Module | None]:
    """The plan of a summary layer and its module, `None` for dense."""
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
    factors, mix = layer._factors(), layer.densify
    if scale is not None and mix is not None:
        mix = mix * scale.to(mix)[:, None]
    elif scale is not None:
        scale = scale.to(layer.summary)[:, None]
        factors = scale if factors is None else factors * scale

    def build(kind: str, way) -> nn.Module:
        return WindowConv(
            way, frame, way.source(layer.summary), factors=factors, bias=shift, mix=mix, pad=pad,
            relu=follow.relu, pool=follow.pool, kernel=kind == "fused",
        )  # fmt: skip

    def dense() -> nn.Module:
        twin = to_dense_(copy.deepcopy(layer))
        follow.fold_into(twin)
        return nn.Sequential(twin, *([nn.ReLU()] if follow.relu else []), *follow.pools)

    shape = tuple(x.shape) if x.dim() > len(frame.kernel) + 1 else (1, *x.shape)
    return choose(
        task, frame, shape, dense, build, device=x.device, dtype=x.dtype, fuse=fuse, measure=measure
    )  # fmt: skip


class _Following:
    """The modules that a chain names, and how they fold into the layer before them."""

    def __init__(self, model: nn.Module, chain: Chain) -> None:
        self.chain = chain
        self.norm = model.get_submodule(chain.norm) if chain.norm else None
        self.relu = chain.activation is not None
        self.pools = [model.get_submodule(chain.pool)] if chain.pool else []
        size = cast(Any, self.pools[0]).kernel_size if self.pools else 1
        self.pool: int = size[0] if isinstance(size, tuple) else size

    @property
    def names(self) -> tuple[str, ...]:
        c = self.chain
        steps = (("norm", c.norm), ("relu", c.activation), ("pool", c.pool))
        return tuple(name for name, there in steps if there)

    def affine(self, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The scale that the norm gives to filters, and the bias behind both."""
        if self.norm is None:
            return None, bias
        scale, shift = norm_affine(self.norm)
        shift = shift if bias is None else bias.double() * scale + shift
        return scale, shift.to(bias.dtype if bias is not None else torch.get_default_dtype())

    @torch.no_grad()
    def fold_into(self, layer: nn.Module) -> None:
        """Fold the norm into a dense layer's weight and bias."""
        if self.norm is None:
            return
        weight = cast(Tensor, layer.weight)
        scale, shift = self.affine(cast(Tensor | None, layer.bias))
        assert scale is not None
        assert shift is not None
        scaled = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
        layer.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
        layer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)

    def drop(self, model: nn.Module, norm: bool, rest: bool = False) -> None:
        """Take what has been folded out of the model."""
        if norm and self.norm is not None:
            inner = [m for name in ("drop", "act") if isinstance(m := getattr(self.norm, name, None), nn.Module)]
            _swap(model, self.norm, nn.Sequential(*inner) if len(inner) > 1 else inner[0] if inner else nn.Identity())
            self.inner_act = next(iter(inner[-1:]), None)
        if rest and self.chain.activation:
            name = self.chain.activation
            inside = self.chain.norm is not None and name == f"{self.chain.norm}.act"
            act = self.inner_act if inside else model.get_submodule(name)
            assert act is not None
            _swap(model, act, nn.Identity())
        for pool in self.pools if rest else ():
            _swap(model, pool, nn.Identity())


def _swap(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put `new` wherever `old` is; returns the model, which is `new` if it was `old`."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new
    return new if model is old else model


@torch.no_grad()
def _memory_format(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> nn.Module:
    """Lay out what is still dense in images as the device likes it best, for this model as a whole."""
    if not any(isinstance(m, nn.Conv2d) for m in model.modules()):
        return model
    other = cast(Any, copy.deepcopy(model)).to(memory_format=torch.channels_last)
    args = example if isinstance(example, tuple) else (example,)
    plain, last = time_in_turn([lambda: model(*args), lambda: other(*args)], rounds=9, device=args[0].device)
    return other if last.median < MARGIN * plain.median else model


@torch.no_grad()
def _inputs(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What each layer was given in a run on the example."""
    seen: dict[str, Tensor] = {}

    def hook(name: str):
        def keep(module: nn.Module, args: tuple) -> None:
            if args:
                seen.setdefault(name, args[0])

        return keep

    layers = ((n, m) for n, m in outer_modules(model) if isinstance(m, SummaryLayer))
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers]
    try:
        model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def _outputs(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    out = model(*example) if isinstance(example, tuple) else model(example)
    return [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def _difference(expected: Iterable[Tensor], got: Iterable[Tensor]) -> float:
    """The largest difference, relative to the largest number expected."""
    pairs = [(a.double(), b.double()) for a, b in zip(expected, got, strict=True) if a.numel()]
    return max((((a - b).abs().amax() / a.abs().amax().clamp_min(1e-30)).item() for a, b in pairs), default=0.0)
