"""Converting a model: dense layers become compressed layers, in place or on a copy; harden them later."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast

import torch
from torch import nn

from autosample.errors import ConversionError, NothingToConvert, SpecError
from autosample.model.report import Report, note_reason, report
from autosample.model.select import Choice, Override, Pattern, choose_layers
from autosample.nn import Compressed, become, compressed_layers
from autosample.sampling.fields import Fields
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec
from autosample.system.copying import copied
from autosample.system.progress import tracked
from autosample.system.warning import warn

Model = TypeVar("Model", bound=nn.Module)

# A ratio that differs from the one that was asked for by more than this share is worth a warning.
_FAR = 0.05


def convert_layers_(
    model: nn.Module,
    spec: "str | Spec | Mapping[str, Any] | Path" = "autosample",
    *,
    include: Iterable[Pattern] | None = None,
    exclude: Iterable[Pattern] | None = None,
    overrides: Mapping[Pattern, Override] | None = None,
    warm_start: bool = False,
    planned_bits: int = 32,
    **changes: Unpack[Fields],
) -> Report:
    """Convert the layers of a model in place, at a ratio that is known. For the rest see `autosample.convert_`.

    Raises:
        SpecError: The spec is unusable.
        ConversionError: The model is converted already, or nothing matched.
        NothingToConvert: No layer would become smaller.
    """
    resolved = make_spec(spec, **changes)
    if not (isinstance(planned_bits, int) and 2 <= planned_bits <= 32) or isinstance(planned_bits, bool):
        raise SpecError(f"planned_bits must be a whole number from 2 to 32, got {planned_bits!r}: pass 4 for 4 bits")
    choices = choose_layers(model, resolved, include, exclude, overrides, planned_bits)
    if resolved.preset != "dense" and all(choice.spec is None for choice in choices):
        reasons = "; ".join(f"{c.name or type(c.layer).__name__}: {c.reason}" for c in choices[:3])
        size = any(choice.reason.startswith("too small") for choice in choices)
        fix = "" if size else next((choice.fix for choice in choices if choice.fix), "")
        raise NothingToConvert(
            f"no layer would become smaller ({reasons}): {fix or 'use a higher ratio or include more layers'}"
        )
    _check_values(choices, warm_start)
    dropped = not warm_start and _is_trained(model)
    before = [(choice.layer, choice.layer.__class__, _inside(choice.layer)) for choice in choices]
    try:
        for choice in tracked(choices, len(choices), "fitting summaries" if warm_start else "converting"):
            _apply(choice, warm_start, planned_bits)
    except BaseException:
        for layer, kind, inside in before:  # all layers or none
            layer.__class__ = kind
            layer.__dict__.clear()
            layer.__dict__.update(inside)
        raise
    _warn_if_far(choices, planned_bits)
    _warn_of_weights(choices, warm_start, dropped)
    return report(model, coded=False)


def _inside(layer: nn.Module) -> dict[str, Any]:
    """The attributes of a layer, and what its stores of parameters, buffers and modules contain."""
    return {name: value.copy() if isinstance(value, dict) else value for name, value in layer.__dict__.items()}


def _warn_if_far(choices: list[Choice], bits: int) -> None:
    """Say what was reached, bits of offsets included, if that is not near the ratio that was asked for."""
    counted = [choice for choice in choices if choice.asked]
    if not counted:
        return
    stored, weights = map(sum, zip(*(_stored(choice.layer, bits) for choice in counted), strict=True))
    asked = sum(choice.asked for choice in counted)
    if abs(asked / stored - 1) > _FAR:
        whole = sum(choice.spec is None for choice in counted)
        small = f", as {whole} of {len(counted)} layers stay dense" if whole else ""
        warn(
            f"a ratio of {weights / asked:.4g} was asked for and {weights / stored:.4g} is reached, offsets "
            f"included{small}: the report tells the ratio of each layer"
        )


def _is_trained(model: nn.Module) -> bool:
    """Whether batch norm has seen data; models without it do not tell."""
    means = [buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")]
    return any(not mean.is_meta and bool(mean.any()) for mean in means)


def _warn_of_weights(choices: list[Choice], warm_start: bool, dropped: bool) -> None:
    """Say what has become of trained weights."""
    if dropped and any(choice.spec is not None for choice in choices):
        warn(
            "the model was trained, and the weights of its converted layers are dropped: pass warm_start=True to start "
            "from them (--config recipe/from_pretrained), then train"
        )
    layers = [choice.layer for choice in choices if isinstance(choice.layer, Compressed)] if warm_start else []
    errors = [(layer.fit_error, layer.facts().dense) for layer in layers if layer.fit_error is not None]
    if errors and (mean := sum(e * n for e, n in errors) / sum(n for _, n in errors)) > _FAR:
        warn(f"the converted layers fit the weights with a relative error of {mean:.2f}: train the model before use")


def _stored(layer: nn.Module, bits: int) -> tuple[float, int]:
    """The numbers of `bits` bits that would take the place of a layer's weights, and how many weights these are."""
    if not isinstance(layer, Compressed):
        count = cast(nn.Parameter, layer.weight).numel()
        return count * 32 / bits, count
    facts = layer.facts()
    return facts.stored + facts.position_bits / bits, facts.dense


def _check_values(choices: Iterable[Choice], warm_start: bool) -> None:
    """Raise `ConversionError` if a warm start has no weights to start from."""
    for choice in choices if warm_start else ():
        weight = choice.layer._parameters.get("weight")
        if choice.spec is not None and weight is not None and weight.is_meta:
            raise ConversionError(
                f"warm_start needs weights, got layer {choice.name!r} on the meta device: load the weights first"
            )


def _apply(choice: Choice, warm_start: bool, bits: int) -> None:
    if choice.spec is None:
        note_reason(choice.layer, choice.reason)
        return
    weight = choice.layer._parameters["weight"]
    assert weight is not None
    layer = become(choice.layer, choice.spec, choice.name, bits)
    if warm_start:
        layer.fit_(weight)


def harden_(model: Model) -> Model:
    """Make learned offsets and selections integers and drop what only their learning needs, in place.

    From then on the model computes exactly what a saved copy of it computes. Summaries can still be trained. Hardening
    a hardened model changes nothing.

    Raises:
        ConversionError: The model has no compressed layer.
    """
    layers = compressed_layers(model)
    if not layers:
        raise ConversionError("harden_ needs a converted model, got a dense one: call convert_ first")
    for layer in layers.values():
        layer.train(layer.training)  # an average of models notices here what it received
        layer.harden_()
    return model


def densify_(model: Model) -> Model:
    """Turn all compressed layers back into dense layers, in place: the original classes, with trainable weights.

    The weights are those that the model computes with now, so its outputs stay the same, and its `state_dict` has the
    names and shapes of the model before `convert_`; only sum-product layers may have got a bias. Layers that share
    their stored numbers share their weight.

    Raises:
        ConversionError: The model has no compressed layer, or one that no dense layer stands for.
    """
    layers = compressed_layers(model)
    for layer in layers.values():
        if not layer.has_weight:
            layer.dense_weight()  # says why, before anything is changed
    if not layers:
        raise ConversionError("densify_ needs a converted model, got one without compressed layers: use it as it is")
    shared: dict[tuple[int, ...], nn.Parameter] = {}
    for layer in layers.values():
        numbers = [getattr(layer, name) for name in layer.coded if getattr(layer, name) is not None]
        learns, key = any(p.requires_grad for p in numbers), (*map(id, numbers), id(layer.method))
        dense: Any = layer.to_dense_()
        first = shared.setdefault(key, dense.weight.requires_grad_(learns))
        if torch.equal(first, dense.weight):
            dense.weight = first
    return model


def densify(model: Model) -> Model:
    """A dense copy of a converted model, like `densify_`; the original is unchanged."""
    return densify_(copied(model))
