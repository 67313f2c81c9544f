"""Changes of a spec's fields and options: which names are known, and how changes are laid over what is there."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from autosample.errors import SpecError, hint
from autosample.sampling.checks import fail
from autosample.sampling.fields import Fields
from autosample.sampling.moved import moved
from autosample.sampling.rules import RULES

#: Options that set a layer's size instead of the ratio.
COMPACTNESS = ("spatial", "channel", "products")


def check_names(changes: Mapping[str, Any]) -> None:
    """Raise `SpecError` if a spec has no field of one of these names."""
    names = ["preset", *Fields.__annotations__]
    for name, value in changes.items():
        if name not in names:
            raise SpecError(moved(str(name), value) or f'a spec has no field "{name}": {hint(str(name), names)}')


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top; see `Spec.replace`."""
    given = _given_options(changes)
    kept = dict(base.get("options") or {})
    if changes.get("rule", base.get("rule")) != base.get("rule"):
        known = option_names(changes["rule"])
        kept = {name: value for name, value in kept.items() if name in known}
    if changes.get("ratio") is not None and not any(given.get(name) for name in COMPACTNESS):
        kept = {name: value for name, value in kept.items() if name not in COMPACTNESS}
    out = {**base, **changes}
    out["options"] = {**kept, **given}
    if any(given.get(name) for name in COMPACTNESS) and changes.get("ratio") is None:
        out["ratio"] = None
    for name, other in (("windows", "window"), ("window", "windows")):
        if changes.get(name) is not None and changes.get(other) is None:
            out[other] = None
    return out


def _given_options(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    given = changes.get("options")
    if given is not None and not isinstance(given, Mapping):
        fail("options must be a mapping of the rule's settings", given, 'write {"rate": 0.1}')
    return given or {}


def option_names(rule: Any) -> set[str]:
    kind = RULES.get(rule) if isinstance(rule, str) else None
    return {f.name for f in fields(kind.Options)} if kind is not None else set()


def kinds_without(kinds: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`by_kind` without the fields and options that `changes` sets for layers of all kinds, or for one layer."""
    given, left = _given_options(changes), {}
    for kind, own in kinds.items():
        kept = {name: value for name, value in own.items() if name not in changes or name == "options"}
        options = {name: value for name, value in (kept.pop("options", None) or {}).items() if name not in given}
        left[kind] = {**kept, **({"options": options} if options else {})}
    return fitting(left, changes["rule"]) if "rule" in changes else left


def fitting(kinds: Mapping[str, Mapping[str, Any]], rule: Any) -> dict[str, dict[str, Any]]:
    """`by_kind` without the options that `rule` does not know. Kinds with their own rule keep theirs."""
    known, left = option_names(rule), {}
    for kind, own in kinds.items():
        kept = dict(own)
        if kept.get("options") and "rule" not in kept:
            kept["options"] = {name: value for name, value in kept["options"].items() if name in known}
        left[kind] = kept
    return left
