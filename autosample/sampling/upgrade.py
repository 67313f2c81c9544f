"""Converts specs from files of version 0.1.0 to the present form.

For saved models, checkpoints and records only: a user who writes an old field gets an error that names the new one (see
`moved`).
"""

from collections.abc import Mapping
from typing import Any

# Options of each rule that were fields of the spec.
_LEARNED = ("start", "rate", "freeze_at", "afford")
_OPTIONS = {
    "strided": ("spatial", "channel", "strides"),
    "random": (),
    "assigned": ("start",),
    "indexed": _LEARNED,
    "interpolated": (*_LEARNED, "unit"),
    "categorical": (*_LEARNED, "candidates"),
}
_EVERY = tuple(dict.fromkeys(name for names in _OPTIONS.values() for name in names))
# Fields that do not change what a trained layer computes: they shaped its training, or are arguments now.
_DROPPED = ("along", "across", "spread", "kernel", "radius", "scale_gradient", "gains", "execution", "bits")
_RULES = {"separable": "strided", "gumbel": "categorical"}


def chosen_columns(data: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's fields in which columns that were learned are a table: files hold what was chosen."""
    return {**data, "columns": "table"} if data.get("columns") == "learned" else dict(data)


def upgraded(data: Mapping[str, Any], rule: str | None = None) -> dict[str, Any]:
    """Plain data of a spec (or of some of its fields) in the present form; present data are returned unchanged.

    Args:
        data: Spec fields by name.
        rule: The rule if `data` does not name one: the preset's for changes to it, `strided` for a whole spec.
    """
    data = chosen_columns(data)
    if "options" in data:
        return data
    old = {name: value for name, value in data.items() if name not in (*_EVERY, *_DROPPED, "by_kind")}
    if "rule" in data:
        old["rule"] = _RULES.get(data["rule"], data["rule"])
    if data.get("window") == 0:
        old["window"] = "row"
    if data.get("grid") == 0:
        old["grid"] = "window"
    known = _OPTIONS.get(str(old.get("rule", rule)), _EVERY)
    if "spatial" not in known and (data.get("spatial") or data.get("channel")):
        old["ratio"] = (data.get("spatial") or 1) * (data.get("channel") or 1)  # what these rules computed from them
    options = {name: data[name] for name in known if data.get(name) is not None}
    if options.get("unit") == "sigmoid" or old.get("rule") == "indexed":
        options["unit"] = "logit"  # the papers' own unit, then the only one of these rules
    if options:
        old["options"] = options
    if data.get("by_kind"):
        old["by_kind"] = {kind: upgraded(own, old.get("rule", rule)) for kind, own in data["by_kind"].items()}
    return old
