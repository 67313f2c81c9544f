"""A model in the form of a file: plain layers in fast forms, whose weights are computed from what is stored."""

import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from autosample.coding.written import Rounding, is_half
from autosample.deployment.deploy import Deployment, deploy, hardened
from autosample.deployment.folding import swap
from autosample.deployment.parts import ConvInParts
from autosample.deployment.verify import Example, arguments
from autosample.errors import ExportError
from autosample.export.folds import SignedConv, SignedLinear
from autosample.export.forms import by_product, choose_form, signs_pay
from autosample.export.layers import DirectConv, SummedConv, flat_pool, with_weight
from autosample.export.products import WrittenProducts
from autosample.export.rows import RowSums
from autosample.nn import Compressed, SummaryLayer, SumProductLayer, compressed_layers
from autosample.nn.folding import layer_folds
from autosample.nn.kinds import is_kind, is_plain
from autosample.nn.lineage import Lineage, forget, lineage_of
from autosample.nn.written import PlainWeight, SampledWeight
from autosample.reuse.deployed import Deployed
from autosample.system.copying import copied


@dataclass(frozen=True)
class Portable:
    """A model that can be written to a file.

    Attributes:
        model: The model on the CPU, float32, in evaluation mode.
        reference: The model whose outputs it must give.
        stored_bytes, dense_bytes: Size of the model and of its dense twin.
        forms: The form of each sampled layer by name.
    """

    model: nn.Module
    reference: nn.Module
    stored_bytes: int
    dense_bytes: int
    forms: dict[str, str]


@torch.inference_mode(False)
@torch.no_grad()
def portable(model: nn.Module, example: Example, *, rounding: Rounding = "") -> Portable:
    """The portable form of a model, deployed or not.

    Args:
        model: Any model; it is not changed.
        example: An input, or a tuple of inputs, on the CPU; forms are chosen for its size.
        rounding: Of summaries and weights. `"signed"` is for graphs that are quantised afterwards: dense weights are
            left as they are, and no form has window sums.

    Raises:
        ConversionError: The example is not a valid input.
        ExportError: The model has layers of autosample without a known origin.
    """
    reference = copied(model).cpu().float().eval()
    deployed = reference
    if not isinstance(getattr(reference, "deployment", None), Deployment):
        reference = hardened(reference)
        deployed = deploy(reference, example, measure=False, fuse=False)
    made = _standard(cast(nn.Module, copy.deepcopy(deployed)).to(memory_format=torch.contiguous_format))
    shapes, forms = _shapes(made, example), {}
    names = {module: name for name, module in made.named_modules()}
    for layer in list(made.modules()):
        new, form = _layer(layer, shapes.get(layer), rounding)
        if form:
            forms[names[layer]] = form
        if new is not None:
            made = swap(made, layer, new)
    sizes: Deployment = cast(Any, deployed).deployment
    made.requires_grad_(False)
    return Portable(made.eval(), reference.eval(), sizes.stored_bytes, sizes.dense_bytes, forms)


@torch.inference_mode(False)
@torch.no_grad()
def dense_twin(model: nn.Module, example: Example, *, rounding: Rounding = "") -> Portable:
    """The same with dense weights, for runtimes that fold no constants."""
    known = portable(model, example)
    made = dense_model(known.reference, example)
    for layer in list(made.modules()):
        new, _ = _layer(layer, None, rounding)
        made = made if new is None else swap(made, layer, new)
    return replace(known, model=made.requires_grad_(False).eval(), forms={})


@torch.no_grad()
def dense_model(model: nn.Module, example: Example) -> nn.Module:
    """A hardened or deployed model as dense torch layers, with norms folded in."""
    made = _standard(copied(model))
    if origins := [m for m in made.modules() if lineage_of(m)]:
        for layer in origins:
            made = swap(made, layer, _dense(layer))
        return made
    for layer in compressed_layers(made).values():
        layer.to_dense_()
    return deploy(made, example, measure=False, fuse=False)


def _standard(model: nn.Module) -> nn.Module:
    """Make all layers process whole batches at once; modules are replaced in place."""
    for module in [m for m in model.modules() if isinstance(m, ConvInParts)]:
        model = swap(model, module, module.standard())
    return model


def _dense(layer: nn.Module) -> nn.Module:
    """The dense layers that a deployed one replaces."""
    origin = lineage_of(layer)
    assert origin is not None
    if not isinstance(layer, Deployed):
        forget(layer)
        return layer
    dense: Any = copy.deepcopy(origin.layer).to_dense_()
    after = origin.after
    dense.weight = nn.Parameter(origin.layer.written(after.scale, "")(), requires_grad=False)
    dense.bias = None if after.shift is None else nn.Parameter(after.shift.float(), requires_grad=False)
    steps = [nn.ReLU()] if after.relu else []
    return nn.Sequential(dense, *steps, *([nn.MaxPool1d(after.pool)] if after.pool > 1 else []))


def _layer(layer: nn.Module, shape: tuple[int, ...] | None, rounding: Rounding) -> tuple[nn.Module | None, str]:
    """What replaces a layer (`None`: nothing does), and its form if it is sampled."""
    origin = lineage_of(layer)
    if origin is not None:
        return _sampled(layer, origin, shape, rounding)
    if isinstance(layer, Deployed | Compressed):
        raise ExportError(
            f"export needs the trained model or the result of deploy, got a single {type(layer).__name__}: pass one "
            "of those"
        )
    if type(layer) is nn.MaxPool1d and not layer.return_indices:
        return flat_pool(layer), ""
    if not is_kind(layer) or "weight" not in layer._parameters:
        return None, ""
    weight, own = cast(Tensor, layer.weight), "" if rounding == "signed" else rounding
    if type(layer) is nn.Conv1d:
        return DirectConv(layer, PlainWeight(weight, own), layer.bias), ""
    few = own or is_half(weight)
    return (with_weight(layer, PlainWeight(weight, own)) if few else None), ""


def _sampled(
    layer: nn.Module, origin: Lineage, shape: tuple[int, ...] | None, rounding: Rounding
) -> tuple[nn.Module, str]:
    source = origin.layer
    if isinstance(source, SumProductLayer):
        return WrittenProducts(source, origin), "products"
    weight = source.written(origin.after.scale, rounding)
    folds = layer_folds(source) if isinstance(weight, SampledWeight) else None
    if folds is not None and (not source.has_weight or (shape is not None and signs_pay(source, folds, shape))):
        assert isinstance(weight, SampledWeight)
        after, mixture = origin.after, cast(SummaryLayer, source).offsets.mixture
        if isinstance(source, nn.Linear):
            return SignedLinear(weight, after.shift, after.relu, folds, mixture), "signed"
        if isinstance(source, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return SignedConv(source, weight, after.shift, origin, folds, mixture), "signed"
    replaced = isinstance(layer, Deployed)  # its weight is not where torch's layers have it
    if not (replaced or isinstance(source, nn.Conv1d | nn.Conv2d)) or not is_plain(source.dense_class):
        return with_weight(layer, weight), "direct"
    form, task = choose_form(source, shape, sums=rounding != "signed")
    product = task is not None and shape is not None and by_product(task, shape)
    if form in ("rows", "summed"):
        assert task is not None
        assert isinstance(weight, SampledWeight)
        if form == "rows":
            return RowSums(cast(Any, source), weight, origin, task), form
        return SummedConv(cast(Any, source), weight, origin, task, product), form
    splits = task.splits if task is not None and form == "folded" else 1
    return DirectConv(source, weight, origin.after.shift, origin, splits, product), form


def _shapes(model: nn.Module, example: Example) -> dict[nn.Module, tuple[int, ...]]:
    """The input shape of each sampled layer, with the batch."""
    seen: dict[nn.Module, tuple[int, ...]] = {}

    def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        axes = len(getattr(cast(Any, lineage_of(module)).layer, "kernel_size", ()))
        seen.setdefault(module, tuple(x.shape) if x.dim() > axes + 1 else (1, *x.shape))

    hooks = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in model.modules() if lineage_of(m)]
    model(*arguments(example))
    for hook in hooks:
        hook.remove()
    return seen
