"""Converting a model: dense layers become summary layers, in place or on a copy; hardening them afterwards."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from autosample.errors import ConversionError, NothingToConvert
from autosample.model.report import Report, note_reason, report
from autosample.model.select import Choice, Override, Rule, choose_layers
from autosample.nn import SummaryLayer
from autosample.nn.layer import become_summary
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec
from autosample.system.progress import tracked

Model = TypeVar("Model", bound=nn.Module)


def convert_(
    model: nn.Module,
    spec: "str | Spec | Mapping[str, Any] | Path" = "autosample",
    *,
    include: Iterable[Rule] | None = None,
    exclude: Iterable[Rule] | None = None,
    overrides: Mapping[Rule, Override] | None = None,
    warm_start: bool = False,
    **changes: Any,
) -> Report:
    """Convert the layers of a model in place and report what became of each.

    A rule is the name of a layer or of a module above it (`"layer4"`), a pattern for the whole name
    (`"re:.*conv2"`), or a type (`"Conv2d"`, `nn.Conv2d`); where several match, names beat patterns beat types.
    First convolution and classifier of a timm model stay dense unless a name or pattern asks for them. Depthwise
    layers and those that would not shrink stay dense too, and the report says why.

    Args:
        model: A model, or a single Conv1d, Conv2d or Linear.
        spec: Preset name, `Spec`, mapping, or path of a YAML file.
        include: Convert only what these rules match.
        exclude: Leave dense what these rules match.
        overrides: Per rule, fields of `Spec` to change, another preset, or `None` to leave the layer dense.
        warm_start: Fit summaries and learned positions to the existing weights instead of starting at random.
        changes: Fields of `Spec`, such as `ratio=8`.

    Raises:
        SpecError: The spec is unusable.
        ConversionError: The model is converted already, or nothing matched.
        NothingToConvert: No layer would become smaller.
    """
    resolved = make_spec(spec, **changes)
    choices = choose_layers(model, resolved, include, exclude, overrides)
    if resolved.preset != "dense" and all(choice.spec is None for choice in choices):
        reasons = "; ".join(f"{c.name or type(c.layer).__name__}: {c.reason}" for c in choices[:3])
        raise NothingToConvert(f"at least one layer must be worth converting, got none ({reasons}): lower the demands")
    for choice in tracked(choices, len(choices), "fitting summaries" if warm_start else "converting"):
        _apply(choice, warm_start)
    return report(model)


def _apply(choice: Choice, warm_start: bool) -> None:
    if choice.spec is None:
        note_reason(choice.layer, choice.reason)
        return
    weight = choice.layer._parameters["weight"]
    assert weight is not None
    layer = become_summary(choice.layer, choice.spec, choice.name)
    if warm_start:
        layer.fit_(weight)


def convert(
    model: Model, spec: "str | Spec | Mapping[str, Any] | Path" = "autosample", **options: Any
) -> tuple[Model, Report]:
    """`convert_` on a copy: the model given stays as it is. Returns the copy and the report."""
    twin = copy.deepcopy(model)
    return twin, convert_(twin, spec, **options)


def summary_layers(model: nn.Module) -> dict[str, SummaryLayer]:
    """The summary layers of a model by name; `""` is the model itself."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, SummaryLayer)}


def harden_(model: Model) -> Model:
    """Turn learned positions and selections into integers, and drop what only their learning needs, in place.

    From here on the model computes exactly what a saved copy of it computes. Summaries can still be trained.
    Hardening a hardened model changes nothing.

    Raises:
        ConversionError: The model has no summary layer.
    """
    layers = summary_layers(model)
    if not layers:
        raise ConversionError("harden_ needs a converted model, got one without summary layers: call convert_ first")
    for layer in layers.values():
        layer.harden_()
    return model
