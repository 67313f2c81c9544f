"""Which layers of a model are converted, and with which spec. Patterns are exact names, `re:` expressions or types."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from autosample.errors import ConversionError, SpecError, hint
from autosample.nn import Compressed
from autosample.nn.becoming import method_of
from autosample.nn.kinds import is_kind, names_of_kinds
from autosample.sampling.changes import COMPACTNESS, kinds_without
from autosample.sampling.geometry import kind_of
from autosample.sampling.presets import PRESETS
from autosample.sampling.sharing import root_ratios
from autosample.sampling.sizing import settle
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec
from autosample.system.warning import warn

Pattern = str | type[nn.Module]
Override = None | str | Spec | Mapping[str, Any]

# Layers that the report lists, whether they can be compressed or not.
_TOLD = (nn.modules.conv._ConvNd, nn.Linear)
# Most names that an error message lists.
_MOST_NAMES = 12
# Saving less than this share of a layer is not worth a conversion.
_LEAST_SAVING = 0.02
# Bits of a weight that stays dense.
_DENSE_BITS = 32
# For a layer whose share holds all its weights: one separate window per filter, without signs or mixing.
_WHOLE = {**PRESETS["dense"], "denser": 1, "signs": "none", "by_kind": {}}


@dataclass(frozen=True)
class Choice:
    """The decision for one layer: its spec, or the reason why it stays dense, and what would change that.

    `asked` is the count of stored numbers that the ratio asks for; 0 if no ratio counts.
    """

    name: str
    layer: nn.Module
    spec: Spec | None
    reason: str = ""
    fix: str = ""
    asked: float = 0.0


class _Patterns:
    """A list of patterns that records the layers which each of them matched."""

    def __init__(self, patterns: Iterable[Pattern], what: str) -> None:
        if isinstance(patterns, str | type):
            patterns = [patterns]
        self.patterns, self.what = list(patterns), what
        self.matched: dict[str, list[str]] = {}
        for pattern in self.patterns:
            if not isinstance(pattern, str | type):
                raise ConversionError(
                    f"{what} takes names, re: expressions and layer types, got {pattern!r}: pass a string or a type"
                )
            if isinstance(pattern, str) and pattern.startswith("re:"):
                _compile(pattern)

    def best(self, name: str, layer: nn.Module) -> tuple[Pattern, int] | None:
        """The pattern that decides for a layer, with its rank: 3 name, 2 expression, 1 type. All matches are noted."""
        hits = [(pattern, rank) for pattern in self.patterns if (rank := _rank(pattern, name, layer))]
        for pattern, _ in hits:
            self.matched.setdefault(str(pattern), []).append(name)
        return max(hits, key=lambda hit: (hit[1], len(str(hit[0])) if hit[1] == 3 else 0), default=None)

    def warn_unused(self, names: Iterable[str]) -> None:
        known = list(names)
        for pattern in self.patterns:
            if str(pattern) not in self.matched:
                named = isinstance(pattern, str) and not pattern.startswith("re:")
                near = f": {hint(str(pattern), known)}" if named else ""
                warn(f"{self.what} pattern {pattern!r} matches no layer{near}")

    def warn_vain(self, choices: Iterable[Choice], wanted: Iterable[Pattern]) -> None:
        """Warn of patterns that ask for layers, all of which stay dense for a reason of their own."""
        known = {choice.name: choice for choice in choices}
        for pattern in map(str, wanted):
            found = [known[name] for name in self.matched.get(pattern, ())]
            if found and all(choice.spec is None for choice in found):
                why = f"{found[0].name}: {found[0].reason}"
                warn(f"{self.what} pattern {pattern!r} converts no layer ({why})")


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern[3:])
    except re.error as error:
        raise ConversionError(f"a re: pattern must be a valid regular expression, got {pattern!r}: {error}") from error


def _rank(pattern: Pattern, name: str, layer: nn.Module) -> int:
    if isinstance(pattern, type):
        return int(isinstance(layer, pattern))
    if pattern.startswith("re:"):
        return 2 * bool(_compile(pattern).fullmatch(name))
    if name == pattern or name.startswith(pattern + "."):
        return 3
    return int(pattern in {base.__name__ for base in type(layer).__mro__ if issubclass(base, nn.Module)} - {"Module"})


def choose_layers(
    model: nn.Module,
    spec: Spec,
    include: Iterable[Pattern] | None = None,
    exclude: Iterable[Pattern] | None = None,
    overrides: Mapping[Pattern, Override] | None = None,
    bits: int = 32,
) -> list[Choice]:
    """Decide for every convolution and linear layer of a model; see `autosample.convert_` for the arguments.

    Raises:
        ConversionError: A pattern is malformed, the model is converted already, or no layer matched.
    """
    _refuse_converted(model)
    changes = dict(overrides or {})
    included = _Patterns(include if include is not None else [], "include")
    excluded, overridden = _Patterns(exclude or [], "exclude"), _Patterns(changes, "overrides")
    ends, shared = _ends(model), _shared_weights(model)
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _TOLD)]
    if not any(is_kind(layer) for _, layer in layers):
        raise ConversionError(f"only {names_of_kinds()} can be converted, got a model without any: check the model")
    choices, matched = [], False
    for name, layer in layers:
        wanted, special = included.best(name, layer), overridden.best(name, layer)
        stop = excluded.best(name, layer)
        if include is not None and wanted is None:
            choices.append(Choice(name, layer, None, "not included"))
        elif stop is not None:
            choices.append(Choice(name, layer, None, f"excluded by {stop[0]!r}"))
        elif not is_kind(layer):
            reason = f"only {names_of_kinds()} can be compressed"
            choices.append(Choice(name, layer, None, reason, "leave it out of include"))
        elif (end := _covering(ends, name)) and not any(hit and hit[1] > 1 for hit in (wanted, special)):
            choices.append(Choice(name, layer, None, end))
        else:
            matched = True
            choices.append(_decide(name, layer, spec, changes[special[0]] if special else {}, shared))
    names = [name for name, _ in layers]
    if not matched:
        raise _nothing_left(choices, f"include={include!r} and exclude={exclude!r}")
    for patterns in (included, excluded, overridden):
        patterns.warn_unused(names)
    final = [_worth(choice, bits) for choice in _shared_out(choices, spec.ratio, bits)]
    if any(choice.spec is not None for choice in final):
        included.warn_vain(final, included.patterns)
        overridden.warn_vain(final, [p for p, change in changes.items() if change not in (None, "dense")])
    return final


def _nothing_left(choices: list[Choice], asked: str) -> ConversionError:
    names = [choice.name for choice in choices]
    known = [*names[:_MOST_NAMES], "…"] if len(names) > _MOST_NAMES else names
    odd = "".join(f" ({choice.name}: {choice.reason})" for choice in choices if choice.fix)
    return ConversionError(f"no layer is left to convert, got {asked}{odd}: layers are {', '.join(known)}")


def _decide(name: str, layer: nn.Module, spec: Spec, change: Override, shared: Mapping[int, str]) -> Choice:
    if change is None or change == "dense":
        return Choice(name, layer, None, "dense by an override")
    if isinstance(change, Spec):
        spec = change.replace(share="even")
    elif isinstance(change, str):
        spec = make_spec(change, ratio=spec.ratio)
    elif not isinstance(change, Mapping):
        raise ConversionError(
            f"overrides map patterns to fields of a spec, a preset or None, got {change!r}: write {{'ratio': 4}}"
        )
    elif change:
        # a layer with its own size does not share
        change = {**({"share": "even"} if _sizes(change) else {}), **change}
        if "preset" in change:
            spec = make_spec({"preset": change["preset"], "ratio": spec.ratio}, **change)
        else:
            spec = spec.replace(**{"by_kind": kinds_without(spec.by_kind, change), **change})
    reason, fix = _obstacle(layer, shared)
    if not reason:
        own = spec.for_kind(kind_of(tuple(layer.weight.shape[2:])))  # pyright: ignore
        reason = method_of(own).unfit(layer, own)
    return Choice(name, layer, None if reason else spec, reason, fix)


def _shared_out(choices: list[Choice], ratio: float | None, bits: int) -> list[Choice]:
    """The choices, in which each layer that shares with others has its own ratio."""
    sharing = [c for c in choices if c.spec is not None and c.spec.share == "root" and _open_size(c)]
    if ratio is None or not sharing:
        return choices
    ratios = root_ratios([_weights(c).numel() for c in sharing], ratio)
    own = {c.name: _with_share(c, r, bits) for c, r in zip(sharing, ratios, strict=True)}
    return [replace(c, spec=own.get(c.name, c.spec)) for c in choices]


def _with_share(choice: Choice, ratio: float, bits: int) -> Spec:
    """The spec of a layer after sharing. With few planned bits, layers that keep all weights get fewer bits too."""
    assert choice.spec is not None
    whole = _WHOLE if ratio == 1 and bits < _DENSE_BITS else {}
    # with the kind's fields applied first, later steps need not check those of all other kinds again
    spec = choice.spec if whole else choice.spec.for_kind(kind_of(tuple(_weights(choice).shape[2:])))
    return spec.replace(**{**whole, "ratio": ratio, "share": "even"})  # a layer with its own ratio no longer shares


def _open_size(choice: Choice) -> bool:
    """Whether only the ratio for all layers sets the size of this layer."""
    assert choice.spec is not None
    kind = choice.spec.by_kind.get(kind_of(tuple(_weights(choice).shape[2:])), {})
    return choice.spec.ratio is not None and not _sizes(kind)


def _sizes(change: Mapping[str, Any]) -> bool:
    """Whether fields of a spec set a layer's size."""
    options = change.get("options")
    options = options if isinstance(options, Mapping) else {}
    return bool(change.get("ratio") or any(options.get(name) for name in COMPACTNESS))


def _weights(choice: Choice) -> nn.Parameter:
    weight = choice.layer._parameters["weight"]
    assert weight is not None
    return weight


def _worth(choice: Choice, bits: int) -> Choice:
    """The choice with its spec settled, or a dense one if conversion would not make the layer smaller."""
    if choice.spec is None:
        return choice
    weight = _weights(choice)
    ratio = choice.spec.for_kind(kind_of(tuple(weight.shape[2:]))).ratio
    asked = weight.numel() / ratio if ratio and choice.spec.preset != "dense" else 0.0
    settled, reason = _settled(choice.spec, weight, bits)
    return replace(choice, spec=settled, reason=reason, asked=asked)


def _obstacle(layer: nn.Module, shared: Mapping[int, str]) -> tuple[str, str]:
    """Why a layer cannot be converted at all, and what to do; empty if it can."""
    weight = layer._parameters.get("weight")
    if weight is None:
        computed = "its weight is computed from other tensors (weight norm, pruning or a parametrization)"
        return computed, "make the weights ordinary first, for example with remove_parametrizations"
    if isinstance(weight, nn.UninitializedParameter):
        return "its weight has no shape yet (lazy)", "run the model once first"
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}", "convert the model in float32"
    if not weight.numel():
        return "it has no weights", "give the layers channels"
    if id(weight) in shared:
        return f"its weight is shared: {shared[id(weight)]}", "give each layer its own weight first"
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1 and weight.shape[1] == 1:
        return "depthwise", "use the model as it is: there is nothing to compress in depthwise layers"
    return "", ""


def _settled(spec: Spec, weight: nn.Parameter, bits: int) -> tuple[Spec | None, str]:
    """The spec for this one layer, so that no later step derives it again; or why conversion would save nothing."""
    if spec.preset == "dense":
        return None, "dense by its preset"
    try:
        own = settle(spec, weight.shape, bits)
        stored = method_of(own).planned(own, tuple(weight.shape), bits)
    except SpecError as error:
        if not spec.for_kind(kind_of(tuple(weight.shape[2:]))).sized:
            raise  # every layer needs a size
        return None, str(error)
    larger = stored * bits > (1 - _LEAST_SAVING) * weight.numel() * _DENSE_BITS
    if larger and not own.options.get("products"):  # who asks for products wants fewer multiplications
        return None, f"too small: {stored} stored numbers for {weight.numel()} weights"
    return own, ""


def _refuse_converted(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, Compressed):
            got = f'one in which layer "{name}" is converted' if name else "a converted layer"
            raise ConversionError(f"a model can be converted once, got {got}: start from the dense model")


def _ends(model: nn.Module) -> dict[str, str]:
    """First convolution and classifier of a timm model, or of one inside the model, from its `pretrained_cfg`."""
    ends = {}
    for prefix, module in model.named_modules():
        config = getattr(module, "pretrained_cfg", None) or {}
        for key, why in (("first_conv", "first convolution"), ("classifier", "classifier")):
            value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
            for name in [value] if isinstance(value, str) else value or []:
                where = f"{prefix}.{name}" if prefix else name
                ends[where] = f"{why} (name it in include to convert it)"
    return ends


def _covering(ends: Mapping[str, str], name: str) -> str:
    """The entry of `ends` for a layer or a module above it."""
    return next((why for end, why in ends.items() if name == end or name.startswith(end + ".")), "")


def _shared_weights(model: nn.Module) -> dict[int, str]:
    """Weights that several modules share, by id."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(f"{name}.{key}" if name else key)
    return {key: " and ".join(names) for key, names in holders.items() if len(names) > 1}
