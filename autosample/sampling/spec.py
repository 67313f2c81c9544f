"""How a layer is compressed, as data: `Spec`, and `spec(...)` which builds one from the name of a preset."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from autosample.errors import SpecError, hint, one_line
from autosample.sampling.changes import COMPACTNESS, check_names, fitting, kinds_without, merged, option_names
from autosample.sampling.checks import Number, check_choice, check_whole, fail, is_number
from autosample.sampling.columns import COLUMNS
from autosample.sampling.fields import Fields, Layout, Share, Signs
from autosample.sampling.geometry import Kind
from autosample.sampling.moved import moved
from autosample.sampling.presets import PRESETS
from autosample.sampling.rules import RULES, RuleOptions

_CHOICES: dict[str, Collection[str]] = {
    "layout": get_args(Layout),
    "share": get_args(Share),
    "columns": COLUMNS,
    "signs": get_args(Signs),
}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How a layer is compressed. Immutable, hashable by content, safe in JSON and YAML.

    Only `ratio` needs to be set; a preset fills in the rest, and `None` means "derived from the layer's shape".

    Attributes:
        preset: Name of the preset that this spec started from.
        rule: How offsets are chosen, or the name of another method: a key of `autosample.sampling.RULES`.
        options: The rule's own settings, such as `{"rate": 0.1}`; see the `Options` of its class.
        ratio: Dense weights divided by stored numbers, per layer or, with `share="root"`, over all layers.
        share: How the layers of a net share the stored numbers. `even` gives every layer the same ratio. `root` gives a
            layer numbers in proportion to the square root of its weights, so small layers get relatively more. A layer
            with a size of its own (override, `by_kind`) does not share. A layer whose share would hold all its weights
            stays dense, or with few `planned_bits` stores one number per weight.
        layout: `taps` slides windows along the kernel taps, `flat` along the flattened filter; `auto` is `taps` for
            kernels of more than one tap.
        windows: Windows per filter, `G`.
        window: Length of a window in the `flat` layout, instead of `windows`; `row` is one row of the kernel.
        grid: Step of the admissible offsets [summary rows]; `window` makes windows disjoint (a codebook).
        columns: Which summary column an input channel reads: `tile` is WSNet's `m mod Q`, `shuffle` a seeded
            permutation per window, `table` stored integers, as in models that learned them.
        signs: `random` multiplies every window by a seeded sign.
        denser: WSNet's `D`: sample `D·N` filters, then mix them down to `N` by a learned matrix.
        seed: Seed of everything pseudo-random.
        by_kind: Fields that differ for a layer kind: `linear`, `pointwise`, `conv1d`, `conv2d`, `conv3d`.

    Raises:
        SpecError: A field or an option is unknown, or has a value outside its range.
    """

    preset: str = "autosample"
    rule: str = "strided"
    options: Mapping[str, Any] = field(default_factory=dict)
    ratio: Number | None = None
    share: Share = "even"
    layout: Layout = "auto"
    windows: int | None = None
    window: int | Literal["row"] | None = None
    grid: int | Literal["window"] = 1
    columns: str = "tile"
    signs: Signs = "none"
    denser: int = 1
    seed: int = 0
    by_kind: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    if not TYPE_CHECKING:  # checkers take the fields from the class

        def __new__(cls, *_: Any, **given: Any) -> "Spec":
            check_names(given)
            return super().__new__(cls)

    def __post_init__(self) -> None:
        if isinstance(self.options, Mapping):
            given = {name: value for name, value in self.options.items() if value is not None}
            object.__setattr__(self, "options", MappingProxyType(given))
        _check(self)
        object.__setattr__(self, "by_kind", _frozen(_plain(self.by_kind)))

    def __hash__(self) -> int:
        return hash(_hashable({f.name: getattr(self, f.name) for f in fields(self)}))

    def __reduce__(self) -> tuple:
        return Spec.from_dict, (self.to_dict(),)

    def __deepcopy__(self, memo: dict) -> "Spec":
        return self

    @property
    def settings(self) -> Any:
        """The rule's settings as an instance of its `Options`, with defaults for those left out."""
        return RULES[self.rule].Options(**self.options)

    @property
    def sized(self) -> bool:
        """Whether the spec sets a layer's size."""
        return self.ratio is not None or any(self.options.get(name) for name in COMPACTNESS)

    def replace(self, **changes: Any) -> "Spec":
        """This spec with some fields changed; unknown fields raise `SpecError` and name the nearest.

        `options` are changed one by one; `None` removes one. A new `rule` keeps the options that it knows. A new
        `ratio` replaces the options `spatial` and `channel`, a new `window` replaces `windows`, and vice versa.
        """
        check_names(changes)
        base = {f.name: getattr(self, f.name) for f in fields(self)}
        if "rule" in changes:
            base["by_kind"] = fitting(self.by_kind, changes["rule"])
        return replace(self, **merged(base, changes))

    def for_kind(self, kind: Kind) -> "Spec":
        """This spec with the changes of `by_kind[kind]` applied and `by_kind` emptied."""
        if not self.by_kind:
            return self
        return self._kinds[kind] if kind in self.by_kind else self._other_kinds

    @cached_property
    def _kinds(self) -> dict[str, "Spec"]:
        """The spec of each kind in `by_kind`. Made once, as every layer of a model asks for one of them."""
        return {kind: self.replace(**{**own, "by_kind": {}}) for kind, own in self.by_kind.items()}

    @cached_property
    def _other_kinds(self) -> "Spec":
        """The spec of all other kinds."""
        return self.replace(by_kind={})

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `preset` and the fields that differ from the class defaults, or from the preset's values."""
        default: dict[str, Any] = {f.name: f.default for f in fields(self)} | {"by_kind": {}, "options": {}}
        usual = default | dict(PRESETS.get(self.preset, {}))
        left_out = {name: None for name in usual["options"] if name in option_names(self.rule)}
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"by_kind": _plain(self.by_kind), "options": left_out | dict(self.options)}
        return {k: v for k, v in values.items() if k == "preset" or v != default[k] or v != usual[k]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Spec":
        """The inverse of `to_dict`. Missing fields take the *class* defaults, not those of the named preset."""
        if not isinstance(data, Mapping):
            raise SpecError(f"a spec must be a mapping of fields, got {type(data).__name__}: write `ratio: 8`")
        check_names(data)
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
            raise SpecError(f"a spec must be valid JSON: {one_line(error)}") from error

    def to_yaml(self) -> str:
        """YAML with one field per line."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=True)

    @classmethod
    def from_yaml(cls, text: str) -> "Spec":
        """The inverse of `to_yaml`; only plain YAML data is read."""
        import yaml

        try:
            return cls.from_dict(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise SpecError(f"a spec must be valid YAML: {one_line(error)}") from error


def _plain(kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {kind: {k: dict(v or {}) if k == "options" else v for k, v in own.items()} for kind, own in kinds.items()}


def _frozen(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nested mappings that cannot be changed."""
    return MappingProxyType({k: _frozen(v) if isinstance(v, Mapping) else v for k, v in data.items()})


def _hashable(value: Any) -> Any:
    """Equal for equal plain data, and hashable."""
    return frozenset((k, _hashable(v)) for k, v in value.items()) if isinstance(value, Mapping) else value


def _check(s: Spec) -> None:
    if s.ratio is not None and not (is_number(s.ratio) and s.ratio > 0):
        fail("ratio must be a number above 0", s.ratio, "8 stores one number for 8 weights")
    if s.ratio is not None and s.ratio < 1:
        fail("ratio (dense weights per stored number) must be at least 1", s.ratio, f"use {1 / s.ratio:g}")
    check_whole("windows", s.windows, least=1, fix="leave it out to derive it from ratio")
    if s.window != "row":
        check_whole("window", s.window, least=1, fix='leave it out, or write "row" for one row of the kernel')
    if s.window is not None and s.windows is not None:
        got = f"both ({s.windows} and {s.window!r})"
        raise SpecError(f"pass either windows (how many) or window (how long), got {got}: remove one")
    if s.grid != "window":
        check_whole("grid", 0 if s.grid is None else s.grid, least=1, fix='write "window" for disjoint windows')
    check_whole("denser", 0 if s.denser is None else s.denser, least=1, fix="2 samples twice as many filters")
    check_whole("seed", -1 if s.seed is None else s.seed, least=0, fix="0 is usual")
    for name, words in _CHOICES.items():
        if isinstance(value := getattr(s, name), str) and (gone := moved(f"{name}: {value}")):
            raise SpecError(gone)
        check_choice(name, value, words)
    _check_rule(s)
    _check_kinds(s)


def _check_rule(s: Spec) -> None:
    if not isinstance(s.rule, str) or s.rule not in RULES:
        fail("rule must name an offset rule", s.rule, moved(str(s.rule)) or hint(str(s.rule), RULES))
    if not isinstance(s.options, Mapping):
        fail("options must be a mapping of the rule's settings", s.options, 'write {"rate": 0.1}')
    kind: type[RuleOptions] = RULES[s.rule].Options
    known = [f.name for f in fields(kind)]
    for name in s.options:
        if name not in known:
            near = hint(str(name), known) if known else "it has none"
            raise SpecError(f'rule {s.rule} has no option "{name}": {near}')
    kind(**s.options)
    sizes = [name for name in COMPACTNESS if s.options.get(name)]
    if s.ratio is not None and sizes:
        of_rule = [name for name in COMPACTNESS if name in known]
        told = ("option " if len(of_rule) == 1 else "options ") + " and ".join(of_rule)
        raise SpecError(f"pass either ratio ({s.ratio:g}) or the {told}, got both: remove one")
    if s.options.get("zeros") and s.grid != "window":
        fail("zeros needs disjoint windows", f"grid {s.grid}", 'pass grid="window", as the preset kmeans does')


def _check_kinds(s: Spec) -> None:
    if not isinstance(s.by_kind, Mapping):
        fail("by_kind must map layer kinds to fields", s.by_kind, 'write {"linear": {"layout": "flat"}}')
    for kind, changes in s.by_kind.items():
        check_choice("a key of by_kind", kind, get_args(Kind))
        if not isinstance(changes, Mapping) or "by_kind" in changes:
            fail(f"by_kind must map {kind} to fields", changes, 'write {"layout": "flat"}')
    _ = s._kinds  # each of them checks itself


def spec(preset: "str | Spec | Mapping[str, Any] | Path" = "autosample", /, **changes: Unpack[Fields]) -> Spec:
    """The `Spec` of a preset, with some fields changed.

    `spec("wsnet", ratio=16)` or, in the paper's terms, `spec("wsnet", options={"spatial": 8, "channel": 4}, denser=2)`.

    Args:
        preset: Name of a preset or of a rule, a mapping with `preset` and other fields, a path of a YAML file (text
            that ends in `.yaml` or `.yml` is a path), or a `Spec`.
        changes: Fields of `Spec`. `None` leaves the preset's value. These apply to all layer kinds, unless `by_kind` is
            given.

    Raises:
        SpecError: The preset, a field or an option is unknown (the message names the nearest), or a value is out of
            range.
    """
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if isinstance(preset, Spec):
        return preset.replace(**given)
    if isinstance(preset, Path) or (isinstance(preset, str) and preset.endswith((".yaml", ".yml"))):
        return spec(_read(Path(preset)), **given)
    if isinstance(preset, Mapping):
        check_names({**preset, **given})
        own = {name: value for name, value in preset.items() if value is not None}
        return spec(preset.get("preset", "autosample"), **merged(own, given))
    given.pop("preset", None)
    if not isinstance(preset, str) or preset not in {*PRESETS, *RULES}:
        raise SpecError(f'no preset is called "{preset}": {hint(str(preset), sorted({*PRESETS, *RULES}))}')
    check_names(given)
    if preset == "dense":
        # every weight is stored, at any ratio of the grid
        given = {name: value for name, value in given.items() if name not in ("ratio", "options")}
    base: dict[str, Any] = {**PRESETS.get(preset, {"rule": preset})}
    base["by_kind"] = kinds_without(base.get("by_kind", {}), given)
    return Spec(**{**merged(base, given), "preset": preset})


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SpecError(f"a spec file must be readable YAML, got {path}: {one_line(error)}") from error
    if not isinstance(data, Mapping):
        raise SpecError(f"a spec file must hold a mapping of fields, {path} does not: write `preset: wsnet`")
    return data
