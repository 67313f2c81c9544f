"""Recipes of models, as data: the net, its arguments, and how its layers are compressed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from autosample.errors import ConfigError, hint
from autosample.model.convert import convert_layers_
from autosample.sampling.presets import PRESETS
from autosample.sampling.upgrade import upgraded


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Plain data from which a model is built: the net, its arguments, the spec, the patterns.

    Attributes:
        model: Name of a timm model, or of one of autosample's nets.
        num_classes: Number of classes.
        in_chans: Input channels; `None` for the model's default.
        model_args: More arguments of the model, such as `drop_rate`.
        spec: How layers are compressed: name of a preset (`dense` compresses nothing), or fields of a `Spec`.
        include, exclude, overrides: Patterns of layers, as for `autosample.convert_`.
        planned_bits: Planned bits per stored number; see `autosample.convert_`.
    """

    model: str
    num_classes: int = 10
    in_chans: int | None = None
    model_args: Mapping[str, Any] | None = None
    spec: str | Mapping[str, Any] = "autosample"
    include: list[str] | None = None
    exclude: list[str] | None = None
    overrides: Mapping[str, Any] | None = None
    planned_bits: int = 32

    @property
    def preset(self) -> str:
        """Name of the preset that compresses the layers."""
        return self.spec if isinstance(self.spec, str) else self.spec.get("preset", "autosample")

    def bare(self) -> nn.Module:
        """The dense net.

        Raises:
            ConfigError: There is no such model, or it does not accept an argument.
        """
        from autosample.models import create

        return create(self.model, num_classes=self.num_classes, in_chans=self.in_chans, **(self.model_args or {}))

    def build(self, warm_start: bool = False) -> nn.Module:
        """The net with its layers compressed.

        Args:
            warm_start: Fit the stored numbers to the weights of the dense net.

        Raises:
            ConfigError: There is no such model, or it does not accept an argument.
            SpecError: The spec is unusable.
            ConversionError: No layer can be converted.
        """
        net = self.bare()
        if self.preset != "dense":
            which = {"include": self.include, "exclude": self.exclude, "overrides": self.overrides}
            convert_layers_(net, self.spec, **which, planned_bits=self.planned_bits, warm_start=warm_start)
        return net

    def to_dict(self) -> dict[str, Any]:
        """Plain data, safe in JSON and YAML."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_dict`; missing fields take their defaults.

        Raises:
            ConfigError: A field is unknown, or there is no model.
        """
        known = [field.name for field in fields(cls)]
        for name in data:
            if name not in known:
                raise ConfigError(f'a recipe has no field "{name}": {hint(str(name), known)}')
        if "model" not in data:
            raise ConfigError("a recipe must name a model, got none: add model: resnet18")
        return cls(**data)

    def arguments(self) -> dict[str, Any]:
        """The recipe as flat arguments of `autosample.training.Classifier`; see `FLAT`."""
        spec = {} if isinstance(self.spec, str) else dict(self.spec)
        spec.pop("preset", None)
        flat = {"spec": self.preset, "ratio": spec.pop("ratio", None), "spec_args": _plain(spec) or None}
        return {**self.to_dict(), **flat}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Recipe":
        """The recipe of a `Classifier`, from the arguments in its checkpoint.

        Args:
            given: Arguments by name, including those of `FLAT`; the names of version 0.1.0 (`summary`) also work.

        Raises:
            ConfigError: There is no model among them.
        """
        flat = dict(given) if "spec" in given or "summary" not in given else _since_010(given)
        own = {name: flat[name] for name in (field.name for field in fields(cls)) if name in flat}
        ratio = {} if flat.get("ratio") is None else {"ratio": flat["ratio"]}
        spec = {"preset": own.pop("spec", "autosample"), **ratio, **_nested(flat.get("spec_args") or {})}
        return cls.from_dict({**own, "spec": spec["preset"] if len(spec) == 1 else spec})


#: Arguments of a `Classifier` that shape its model: `spec` names a preset, whose fields `ratio` and `spec_args` change.
FLAT = (*(field.name for field in fields(Recipe)), "ratio", "spec_args")
#: Arguments of a `Classifier` that become a ratio; none of them is kept.
BUDGETS = ("bytes", "latency", "multiplications", "input")


def _nested(args: Mapping[str, Any]) -> dict[str, Any]:
    """Turns `{"options.rate": 0.1}`, the form of the command line, into `{"options": {"rate": 0.1}}`."""
    out = {name: value for name, value in args.items() if "." not in name}
    for name, value in args.items():
        field, dot, inner = name.partition(".")
        if dot:
            out[field] = {**(out.get(field) or {}), inner: value}
    return out


def _since_010(given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts arguments of version 0.1.0 to the present form."""
    preset, args = given["summary"], dict(given.get("summary_args") or {})
    rule = args.get("rule") or PRESETS.get(preset, {}).get("rule")
    overrides = {
        pattern: upgraded(change, _rule_of(change, rule)) if isinstance(change, Mapping) else change
        for pattern, change in (given.get("overrides") or {}).items()
    }
    new = {"spec": preset, "spec_args": upgraded(args, rule) or None, "overrides": overrides or None}
    return {**given, **new, "planned_bits": args.get("bits") or 32}


def _rule_of(change: Mapping[str, Any], usual: str | None) -> str | None:
    """The rule of a layer: that of the override's preset, or the usual one."""
    return PRESETS.get(change.get("preset", ""), {}).get("rule", usual)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
