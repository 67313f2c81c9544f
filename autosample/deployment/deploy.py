"""From a trained model to a plain one for inference: norms folded in, and the fastest exact plan for each layer."""

import copy
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autosample.deployment.chains import find_chains
from autosample.deployment.layers import PlannedLayer, layer_inputs, plan_layers
from autosample.deployment.verify import Example, checked_error, outputs
from autosample.deployment.whole import fastest
from autosample.errors import ConversionError
from autosample.model.convert import harden_
from autosample.nn import Compressed
from autosample.system.tables import as_text, make_table

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Deployment:
    """What was decided for the layers of a deployed model; prints as a table.

    Attributes:
        rows: One for each convolution and linear layer that was converted or into which something was folded.
        error: Largest difference of the outputs for the example from those of the hardened model, relative to the
            largest of these.
        stored_bytes, dense_bytes: Of the model that was deployed, as `autosample.report` counts them.
    """

    rows: tuple[PlannedLayer, ...]
    error: float
    stored_bytes: int
    dense_bytes: int

    def __str__(self) -> str:
        heads = ("layer", "plan", "dense [ms]", "plan [ms]", "fewer MACs", "folded in", "why")
        return as_text(make_table(heads, map(_cells, self.rows), left=("layer", "plan", "folded in", "why")), width=140)


def _cells(row: PlannedLayer) -> list[str]:
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

    The result is a plain module in evaluation mode without autosample's layers in it: layers that can reuse work have
    become `WindowConv`, the others their dense torch twins. Its attribute `deployment` says what was decided for each
    layer and why. It gives the same outputs for inputs of any size. The plans are chosen for the size of `example`, on
    its device and with the present number of threads.

    Args:
        model: A model or a single layer, converted or not.
        example: An input, or a tuple of inputs; its batch counts.
        measure: Time promising plans on this device, and take one only if it beats the dense layer. Otherwise a cost
            model decides.
        fuse: Use the fused C++ kernel where it runs (built on first use), not only standard operators.

    Raises:
        ConversionError: The example is no input, or the outputs would not be those of the model.
    """
    if not isinstance(example, Tensor | tuple):
        kind = type(example).__name__
        raise ConversionError(f"deploy needs an example input, got a {kind}: pass a tensor, or a tuple of all inputs")
    fast = hardened(model)
    sizes = _sizes(fast)
    chains, inputs, expected = find_chains(fast, example), layer_inputs(fast, example), outputs(fast, example)
    dense = copy.deepcopy(fast) if measure else None
    fast, rows = plan_layers(fast, chains, inputs, measure=measure, fuse=fuse)
    error = checked_error(expected, outputs(fast, example))
    if dense is not None:
        ways = [(fast, rows)]
        if any(row.plan.kind != "dense" for row in rows):
            ways.append(plan_layers(dense, chains, inputs, measure=measure, fuse=fuse, dense=True))
        fast, rows = fastest(ways, example, expected)
    object.__setattr__(fast, "deployment", Deployment(tuple(rows), error, *sizes))
    return cast(Model, fast)


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
    if any(isinstance(m, Compressed) for m in fast.modules()):
        harden_(fast)
    return fast.requires_grad_(False)
