"""Converting a model at a ratio, or within a budget of bytes, milliseconds or multiplications."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, Unpack

from torch import nn

from autosample.budget.find import find_budget
from autosample.deployment.verify import Example
from autosample.errors import ConversionError
from autosample.model.convert import convert_layers_
from autosample.model.report import Report
from autosample.model.select import Override, Pattern
from autosample.sampling.fields import Fields
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec
from autosample.system.copying import copied

Model = TypeVar("Model", bound=nn.Module)


def convert_(
    model: nn.Module,
    spec: "str | Spec | Mapping[str, Any] | Path" = "autosample",
    *,
    bytes: float | None = None,
    latency: float | None = None,
    multiplications: float | None = None,
    example: Example | None = None,
    include: Iterable[Pattern] | None = None,
    exclude: Iterable[Pattern] | None = None,
    overrides: Mapping[Pattern, Override] | None = None,
    warm_start: bool = False,
    planned_bits: int = 32,
    **changes: Unpack[Fields],
) -> Report:
    """Convert the layers of a model in place. Returns a report with a row per layer.

    A pattern is the name of a layer or of a module above it (`"layer4"`), `re:` and a regular expression for the whole
    name (`"re:.*conv2"`), or a type (`"Conv2d"`, `nn.Conv2d`). If several match, a name wins over an expression, and
    that over a type. The first convolution and the classifier of a timm model stay dense unless a name or an expression
    asks for them. Depthwise layers and layers that would not shrink stay dense too; the report gives the reason.

    The size is one of `ratio`, `bytes`, `latency` and `multiplications`. With a budget, the smallest ratio that meets
    it is searched for, which stores the most numbers, and the report's `budget` tells it. The model itself is converted
    once, at the end.

    Args:
        model: A model, or a single convolution or linear layer.
        spec: Preset name, `Spec`, mapping, or path of a YAML file.
        bytes: Largest size of the whole model [bytes], as `Report.stored_bytes` counts it. With fewer `planned_bits`
            (2 to 8) it is the size after `quantize_` to these bits.
        latency: Largest median time of a forward pass of the deployed model [ms], on this machine, on the device of
            `example`, with the number of threads that torch has now. Copies are deployed and timed at about ten
            ratios, up to 256.
        multiplications: Largest number of multiplications of a forward pass of the whole model on `example`, as
            `Report.multiplications` counts them. For `strassen` this decides the products per output channel; to set
            these themselves, write `options={"products": 0.75}`.
        example: For `latency` and `multiplications`: an input, or a tuple of inputs.
        include: Convert only the layers that these patterns match.
        exclude: Leave the layers dense that these patterns match.
        overrides: For each pattern: fields of `Spec` to change, a preset name, or `None` to leave the layer dense.
        warm_start: Fit summaries and learned offsets to the existing weights instead of starting at random. A warning
            tells how well they fit. Beyond a ratio of about 2 the model is not usable until it is trained again.
        planned_bits: Planned bits per stored number, 2 to 32; fewer than 32 if the model will be quantised later.
            Nothing is quantised here. The cost of learned offsets is compared with numbers of this many bits. With
            `share="root"`, layers that would not get fewer numbers are converted too, to store them at fewer bits.
        changes: Fields of `Spec`, such as `ratio=8`.

    Raises:
        SpecError: The spec is unusable.
        ConfigError: A budget is unusable, or nothing meets it; the message names the nearest that is possible.
        ConversionError: The model is converted already, nothing matched, or `example` is not an input of the model.
        NothingToConvert: No layer would become smaller, or the dense model meets the budget.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(
            f"convert_ needs a torch module, got {model!r:.80}: pass timm.create_model(…) or your own"
        )
    made = make_spec(spec, **changes)
    which: dict[str, Any] = {"include": _kept(include), "exclude": _kept(exclude), "planned_bits": planned_bits}
    asked = {"bytes": bytes, "latency": latency, "multiplications": multiplications, "example": example}
    budget = find_budget(model, made, **asked, **which, overrides=overrides)
    if budget is not None:
        made, overrides = made.replace(**budget.size), {**(overrides or {}), **budget.overrides}
    report = convert_layers_(model, made, **which, overrides=overrides, warm_start=warm_start)
    return replace(report, budget=budget)


def _kept(patterns: Iterable[Pattern] | None) -> Iterable[Pattern] | None:
    """Patterns that can be read several times."""
    return patterns if patterns is None or isinstance(patterns, str | type) else list(patterns)


class _Options(Fields, total=False):
    """The keyword arguments of `convert_`."""

    bytes: float | None
    latency: float | None
    multiplications: float | None
    example: Example | None
    include: Iterable[Pattern] | None
    exclude: Iterable[Pattern] | None
    overrides: Mapping[Pattern, Override] | None
    warm_start: bool
    planned_bits: int


def convert(
    model: Model, spec: "str | Spec | Mapping[str, Any] | Path" = "autosample", **options: Unpack[_Options]
) -> tuple[Model, Report]:
    """Convert a copy, like `convert_`; the original is unchanged. Returns the copy and the report."""
    changed = copied(model)
    return changed, convert_(changed, spec, **options)
