"""What to do to a layer, as data: `Spec`, and `spec(...)` which builds one from the name of a preset."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from autosample.errors import SpecError, hint, one_line
from autosample.sampling.presets import PRESETS as PRESETS

Layout = Literal["auto", "taps", "flat"]
Start = Literal["strided", "random"]
Strides = Literal["whole", "any"]
Share = Literal["even", "root"]
Kernel = Literal["linear", "triangle", "gaussian"]
Unit = Literal["positions", "sigmoid"]
Columns = Literal["tile", "shuffle", "learned"]
Signs = Literal["none", "random"]
Gains = Literal["none", "filter", "window"]
GradientScale = Literal["none", "sqrt", "mean"]
Execution = Literal["auto", "materialize", "reuse"]
Kind = Literal["linear", "pointwise", "conv1d", "conv2d"]

# Two ways to say the same: setting one in place of the other unsets the other.
_ALTERNATIVES = ((("ratio",), ("spatial", "channel")), (("windows",), ("window",)))

_CHOICES: dict[str, tuple[str, ...]] = {
    "layout": get_args(Layout),
    "start": get_args(Start),
    "strides": get_args(Strides),
    "share": get_args(Share),
    "kernel": get_args(Kernel),
    "unit": get_args(Unit),
    "columns": get_args(Columns),
    "signs": get_args(Signs),
    "gains": get_args(Gains),
    "scale_gradient": get_args(GradientScale),
    "execution": get_args(Execution),
}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How the filters of a layer are sampled from its summary. Immutable, hashable by content, JSON and YAML safe.

    Only `ratio` needs to be set; a preset fills in the rest and `None` means "derived from the layer's shape".

    Attributes:
        preset: Name of the preset that this spec started from.
        rule: Offset rule, a key of `autosample.sampling.OFFSET_RULES`.
        ratio: Dense weights divided by stored numbers, per layer or, with `share="root"`, over all layers.
        share: How the layers of a net share the stored numbers: `even` gives every layer the same ratio, `root`
            numbers in proportion to the square root of its weights, so that large layers give to small ones. Layers
            whose size is set by an override or `by_kind` keep it; a layer by itself has nothing to share. One whose
            share would hold all its weights stays dense, or with fewer `bits` has a number of these for each weight.
        layout: `taps` slides windows along the kernel taps, `flat` along the unrolled filter; `auto` takes `taps`
            where a kernel has more than one tap.
        windows: Windows per filter, `G`.
        window: Length of a window in the `flat` layout, instead of `windows`; `0` means one kernel row.
        spatial, channel: WSNet's compactness along the taps and along the channels, instead of `ratio`.
        denser: WSNet's `D`: sample `D·N` filters, then mix them down to `N` by a learned matrix.
        grid: Step of the admissible positions [summary rows]; `0` makes windows disjoint (a codebook).
        strides: The strided rules of WSNet and FSNet have `whole` strides, which meet a ratio only roughly; with `any`
            the summary has the length that the ratio asks for and windows are spread evenly, rounded to rows.
        start: Where learned positions begin.
        kernel, radius: Interpolation between neighbouring positions, and how many neighbours on each side take part.
        unit: Learned positions are stored in `positions`, or as DFSNet's fraction through a `sigmoid`.
        candidates: How many neighbouring grid positions a categorical or gumbel window chooses among.
        along, across: The two rules that `separable` adds: one per filter, one per channel group.
        spread: Share of the admissible range that `separable` gives to its rule `across`.
        columns: Which summary column an input channel reads: `tile` is WSNet's `m mod Q`, `shuffle` a seeded
            permutation in each group, `learned` a straight-through choice.
        signs: `random` multiplies every window by a seeded sign.
        gains: A learned factor per filter or per window, left out of layers where they would take more than half of the
            numbers that `ratio` leaves.
        scale_gradient: Divide the summary's gradient by the multiplicity of each element, or by its square root.
        rate: Learning rate of positions [positions per optimizer step of Adam], or of the scores of choices [logits
            per step]; `None` uses that of the weights.
        freeze_at: Share of the training after which positions become integers and stay.
        afford: Share of a summary's bits that learned positions may take. Where they would take more they are random,
            and cost nothing (with 0 everywhere); with `None` there are fewer windows instead.
        bits: Bits that a stored number is to have: fewer than 32 where the net is to be quantised. `afford` reckons
            with them, and layers that would not shrink by sharing numbers are converted for the sake of the bits.
        seed: Seed of everything pseudo-random.
        execution: How a layer is computed until it is deployed: `materialize` samples the weight and convolves,
            `reuse` shares the work of overlapping windows where positions are integers, `auto` takes what a cost
            model expects to be faster (on accelerators the weight). Compiled and exported models use the weight.
        by_kind: Fields that differ by layer kind: `linear`, `pointwise`, `conv1d`, `conv2d`.

    Raises:
        SpecError: A field has a value outside its range.
    """

    preset: str = "autosample"
    rule: str = "strided"
    ratio: float | None = None
    share: Share = "even"
    layout: Layout = "auto"
    windows: int | None = None
    window: int | None = None
    spatial: int | None = None
    channel: int | None = None
    denser: int = 1
    grid: int = 1
    strides: Strides = "whole"
    start: Start = "strided"
    kernel: Kernel = "linear"
    radius: int = 1
    unit: Unit = "positions"
    candidates: int = 8
    along: str = "strided"
    across: str = "random"
    spread: float = 0.25
    columns: Columns = "tile"
    signs: Signs = "none"
    gains: Gains = "none"
    scale_gradient: GradientScale = "none"
    rate: float | None = None
    freeze_at: float = 0.6
    afford: float | None = None
    bits: int = 32
    seed: int = 0
    execution: Execution = "auto"
    by_kind: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)
        frozen = {kind: MappingProxyType(dict(changes)) for kind, changes in self.by_kind.items()}
        object.__setattr__(self, "by_kind", MappingProxyType(frozen))

    def __hash__(self) -> int:
        kinds = frozenset((kind, frozenset(changes.items())) for kind, changes in self.by_kind.items())
        return hash((kinds, *(getattr(self, f.name) for f in fields(self) if f.name != "by_kind")))

    def __reduce__(self) -> tuple:
        return Spec.from_dict, (self.to_dict(),)

    def __deepcopy__(self, memo: dict) -> "Spec":
        return self

    def replace(self, **changes: Any) -> "Spec":
        """This spec with some fields changed; unknown fields raise `SpecError` and name the nearest.

        A new `ratio` takes the place of `spatial` and `channel`, a new `window` that of `windows`, and vice versa.
        """
        _known(changes)
        return replace(self, **(_displaced(changes) | changes))

    def for_kind(self, kind: Kind) -> "Spec":
        """This spec with the changes of `by_kind[kind]` applied and `by_kind` emptied."""
        return self.replace(**dict(self.by_kind.get(kind, {})), by_kind={})

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `preset` and the fields that differ from the class defaults, or from the preset's values."""
        kinds = {kind: dict(changes) for kind, changes in self.by_kind.items()}
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"by_kind": kinds}
        default = {f.name: f.default for f in fields(self)} | {"by_kind": {}}
        usual = default | dict(PRESETS.get(self.preset, {}))
        return {k: v for k, v in values.items() if k == "preset" or v != default[k] or v != usual[k]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Spec":
        """The inverse of `to_dict`. Missing fields take the *class* defaults, not those of the named preset."""
        if not isinstance(data, Mapping):
            raise SpecError(f"a spec must be a mapping of fields, got {type(data).__name__}: write `ratio: 8`")
        _known(data)
        return cls(**data)

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        """The inverse of `to_json`."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise SpecError(f"a spec must be valid JSON, got an error at {one_line(error)}: fix the text") from error

    def to_yaml(self) -> str:
        """YAML with one field a line."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=True)

    @classmethod
    def from_yaml(cls, text: str) -> "Spec":
        """The inverse of `to_yaml`; only plain YAML data is read."""
        import yaml

        try:
            return cls.from_dict(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise SpecError(f"a spec must be valid YAML, got an error: {one_line(error)}") from error


def _known(changes: Mapping[str, Any]) -> None:
    names = [f.name for f in fields(Spec)]
    for name in changes:
        if name not in names:
            raise SpecError(f'a spec has no field "{name}": {hint(str(name), names)}')


def _displaced(changes: Mapping[str, Any]) -> dict[str, None]:
    """The alternatives to what `changes` sets, as fields to unset."""
    given = {name for name, value in changes.items() if value is not None}
    pairs = [pair for one, other in _ALTERNATIVES for pair in ((one, other), (other, one))]
    return {name: None for new, old in pairs if given & set(new) and not given & set(old) for name in old}


def _fail(rule: str, got: object, fix: str) -> None:
    raise SpecError(f"{rule}, got {got!r}: {fix}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(s: Spec) -> None:
    if s.ratio is not None and not (_number(s.ratio) and s.ratio > 0):
        _fail("ratio must be a number above 0", s.ratio, "8 stores an eighth of the weights")
    if s.ratio is not None and s.ratio < 1:
        _fail("ratio is dense weights per stored number and must be at least 1", s.ratio, f"use {1 / s.ratio:g}")
    if s.ratio is not None and (s.spatial or s.channel):
        _fail("give either ratio or spatial and channel", f"ratio={s.ratio}", "drop one of them")
    for name in ("windows", "spatial", "channel"):
        value = getattr(s, name)
        if value is not None and not _whole(value, 1):
            _fail(f"{name} must be a whole number of at least 1", value, "leave it out to have it derived")
    if s.window is not None and not _whole(s.window, 0):
        _fail("window must be a whole number of at least 0", s.window, "0 means one kernel row")
    if s.window is not None and s.windows is not None:
        _fail("give either windows (how many) or window (how long)", (s.windows, s.window), "drop one of them")
    for name, least in (("denser", 1), ("grid", 0), ("radius", 1), ("candidates", 2), ("seed", 0)):
        if not _whole(getattr(s, name), least):
            _fail(f"{name} must be a whole number of at least {least}", getattr(s, name), "see the docstring of Spec")
    if s.rate is not None and not (_number(s.rate) and s.rate > 0):
        _fail("rate must be above 0 positions a step", s.rate, "0.2 suits Adam")
    if s.afford is not None and not (_number(s.afford) and s.afford >= 0):
        _fail("afford must be a share of at least 0", s.afford, "0.1 lets positions take a tenth of a summary's bits")
    if not (_whole(s.bits, 2) and s.bits <= 32):
        _fail("bits must be a whole number from 2 to 32", s.bits, "4 if summaries are to be stored at 4 bits")
    for name in ("freeze_at", "spread"):
        if not (_number(getattr(s, name)) and 0 <= getattr(s, name) <= 1):
            _fail(f"{name} must lie between 0 and 1", getattr(s, name), "0.6 is a usual choice for freeze_at")
    _check_names(s)


def _check_names(s: Spec) -> None:
    from autosample.sampling.rules import OFFSET_RULES  # the one table of rules; it needs this module first

    for name, choices in _CHOICES.items():
        if getattr(s, name) not in choices:
            near = hint(str(getattr(s, name)), choices)
            _fail(f"{name} must be one of {', '.join(choices)}", getattr(s, name), near)
    for name in ("rule", "along", "across"):
        if getattr(s, name) not in OFFSET_RULES:
            _fail(f"{name} must name an offset rule", getattr(s, name), hint(str(getattr(s, name)), OFFSET_RULES))
    for name in ("along", "across"):
        if getattr(s, name) in ("separable", "indexed"):
            _fail(f"{name} must be a rule that stands alone", getattr(s, name), "use strided, random or a learned one")
    if not isinstance(s.by_kind, Mapping):
        _fail("by_kind must map layer kinds to fields", s.by_kind, 'write {"linear": {"layout": "flat"}}')
    for kind, changes in s.by_kind.items():
        if kind not in get_args(Kind):
            _fail(f"by_kind knows the kinds {', '.join(get_args(Kind))}", kind, hint(str(kind), get_args(Kind)))
        if not isinstance(changes, Mapping) or "by_kind" in changes:
            _fail(f"by_kind must map {kind} to fields", changes, 'write {"layout": "flat"}')
        s.replace(**dict(changes), by_kind={})  # checks itself


def spec(preset: "str | Spec | Mapping[str, Any] | Path" = "autosample", /, **changes: Any) -> Spec:
    """The `Spec` of a preset, with some fields changed.

    `spec("wsnet", ratio=16)` or, in the paper's terms, `spec("wsnet", spatial=8, channel=4, denser=2)`.

    Args:
        preset: Name of a preset, a mapping with `preset` and other fields, a path of a YAML file (a string counts as
            one where it ends in `.yaml` or `.yml`), or a `Spec`.
        changes: Fields of `Spec`. `None` leaves the preset's value. What is given here holds for all kinds of layers,
            unless `by_kind` is given too.

    Raises:
        SpecError: The preset or a field is unknown (the nearest names are given), or a value is out of range.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if isinstance(preset, Spec):
        return preset.replace(**changes)
    if isinstance(preset, Path) or (isinstance(preset, str) and preset.endswith((".yaml", ".yml"))):
        return spec(_read(Path(preset)), **changes)
    if isinstance(preset, Mapping):
        kept = {name: value for name, value in preset.items() if name not in _displaced(changes)}
        return spec(preset.get("preset", "autosample"), **{**kept, **changes})
    changes.pop("preset", None)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise SpecError(f'no preset is called "{preset}": {hint(str(preset), PRESETS)}')
    _known(changes)
    if preset == "dense":
        # every weight is stored, whatever ratio the rest of a grid is run at
        changes = {name: value for name, value in changes.items() if name not in ("ratio", "spatial", "channel")}
    base: dict[str, Any] = {k: v for k, v in PRESETS[preset].items() if k not in _displaced(changes)}
    base["by_kind"] = kinds_without(base.get("by_kind", {}), changes)
    return Spec(**{**base, "preset": preset, **changes})


def kinds_without(kinds: Mapping[str, Mapping[str, Any]], given: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`by_kind` without the fields that were given for layers of all kinds, or for one layer by its name."""
    return {kind: {k: v for k, v in own.items() if k not in given} for kind, own in kinds.items()}


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SpecError(f"a spec file must be readable YAML, got {path}: {one_line(error)}") from error
    if not isinstance(data, Mapping):
        raise SpecError(f"a spec file must hold a mapping of fields, got {path}: write `preset: wsnet` and so on")
    return data
