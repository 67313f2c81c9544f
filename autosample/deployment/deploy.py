"""From a trained model to a plain one for inference: norms folded in, and the fastest exact plan for each layer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from autosample.deployment.chains import find_chains
from autosample.deployment.layers import PlannedLayer, layer_inputs, plan_layers
from autosample.deployment.shortcuts import with_shortcuts
from autosample.deployment.verify import Example, checked_error, outputs
from autosample.deployment.whole import fastest
from autosample.errors import ConversionError
from autosample.model.convert import harden_
from autosample.nn import Compressed, execution
from autosample.reuse import fused
from autosample.reuse.deployed import Deployed
from autosample.reuse.max_pool import use_fast_pools
from autosample.system.calling import trying
from autosample.system.copying import copied
from autosample.system.tables import Printed, make_table

if TYPE_CHECKING:
    from rich.table import Table

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, repr=False)
class Deployment(Printed):
    """The plans of a deployed model, layer by layer; prints as a table.

    Attributes:
        rows: One per convolution or linear layer that was converted or into which something was folded.
        error: Largest difference between the outputs for the example and those of the hardened model, relative to the
            largest output.
        stored_bytes, dense_bytes: Size of the original model and of its dense twin, as in `autosample.report`.
        no_kernel: Why the plans do without the fused kernel, and how to change that; empty if they do not.
    """

    rows: tuple[PlannedLayer, ...]
    error: float
    stored_bytes: int
    dense_bytes: int
    no_kernel: str = ""

    def __repr__(self) -> str:
        other = sum(row.plan.kind != "dense" for row in self.rows)
        return f"<Deployment: {other} of {len(self.rows)} layers reuse work, error {self.error:.1e}>"

    def __rich__(self) -> "Table":
        heads = ("layer", "plan", "dense [ms]", "plan [ms]", "fewer MACs", "folded in", "why")
        return make_table(heads, map(_cells, self.rows), left=("layer", "plan", "folded in", "why"))

    def _note(self) -> str:
        return f"Plans are slower without the fused kernel: {self.no_kernel}" if self.no_kernel else ""


def _cells(row: PlannedLayer) -> list[str]:
    p = row.plan
    times = ("" if t is None else f"{1e3 * t:.3f}" for t in (p.dense_seconds, p.seconds))
    saving = f"{p.saving:.1f}x" if p.kind != "dense" else ""
    return [row.name or "(itself)", p.kind, *times, saving, " ".join(row.folded), p.reason]


@torch.inference_mode(False)  # tensors made in this mode could not be loaded into or exported later
@torch.no_grad()
@torch.random.fork_rng([])
def deploy(
    model: Model,
    example: Example,
    *,
    measure: bool = True,
    fuse: bool = True,
) -> Model:
    """Make a copy for inference: hardened, with norms folded in, and the fastest exact plan for every layer.

    The result is a plain module in evaluation mode, without compressed layers. Layers that reuse work become
    `WindowConv`, all others dense torch layers. The attribute `deployment` lists each layer with its plan and the
    reason. Outputs are the same for inputs of any size. Plans are chosen for the size of `example`, on its device and
    with the present number of threads.

    Args:
        model: A model or a single layer, converted or not.
        example: An input, or a tuple of inputs; plans depend on its batch size.
        measure: Time promising plans on this device, and use one only if it is faster than the dense layer. Otherwise a
            cost model decides.
        fuse: Use the fused C++ kernel if it runs here (built on first use), not only standard operators.

    Raises:
        ConversionError: The example is not a valid input, or the outputs would differ from those of the model.
    """
    if not isinstance(example, Tensor | tuple):
        kind = type(example).__name__
        raise ConversionError(f"deploy needs an example input, got {kind}: pass a tensor, or a tuple of all inputs")
    fast = hardened(model)
    sizes = _sizes(fast)
    # compared with the definition, not with another way to reuse work
    with execution("materialize"), trying(example):
        expected = outputs(fast, example)
    chains, inputs = find_chains(fast, example), layer_inputs(fast, example)
    dense = copied(fast) if measure else None
    planned = plan_layers(fast, chains, inputs, measure=measure, fuse=fuse)
    on_cpu = any(t.device.type == "cpu" for t in tree_leaves(example) if isinstance(t, Tensor))
    if fuse and on_cpu and any(isinstance(m, Deployed) for m in planned[0].modules()):
        use_fast_pools(planned[0])
    ways = [*with_shortcuts(*planned), planned]
    fast, rows = ways[0]
    error = checked_error(expected, outputs(fast, example))
    if dense is not None:
        if any(row.plan.kind != "dense" for row in rows):
            ways.append(plan_layers(dense, chains, inputs, measure=measure, fuse=fuse, dense=True))
        fast, rows = fastest(ways, example, expected)
    object.__setattr__(
        fast, "deployment", Deployment(tuple(rows), error, *sizes, fused.missed() if on_cpu and fuse else "")
    )
    return cast(Model, fast)


def _sizes(model: nn.Module) -> tuple[int, int]:
    """Bytes that a model stores, and bytes of its dense twin."""
    from autosample.model.report import report

    sizes = report(model, coded=False)
    return sizes.stored_bytes, sizes.dense_bytes


def hardened(model: nn.Module) -> nn.Module:
    """A hardened copy in evaluation mode; weights that torch computes from others become plain ones."""
    fast = copied(model).eval()
    _plain_weights(fast)
    if any(isinstance(m, Compressed) for m in fast.modules()):
        harden_(fast)
    return fast.requires_grad_(False)


def _plain_weights(model: nn.Module) -> None:
    """Replace weight norm, spectral norm, pruning and parametrizations by the weights that they compute."""
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    for module in [m for m in model.modules() if parametrize.is_parametrized(m)]:
        values = {name: getattr(module, name).clone() for name in cast(nn.ModuleDict, module.parametrizations)}
        # not by `remove_parametrizations`: it changes the class, which the original model shares
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
