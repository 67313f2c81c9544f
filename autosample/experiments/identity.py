"""Identities of cells: plain data that are equal for equal configurations.

Each record keeps the identity of its cell. Identities written by version 0.1.0 are translated, so grids find these
records.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from autosample.errors import AutosampleError
from autosample.experiments.rivals import RIVALS
from autosample.model.recipe import Recipe
from autosample.sampling.presets import PRESETS
from autosample.sampling.spec import Spec, spec
from autosample.sampling.upgrade import upgraded

#: A method that is not a preset: the dense net with fewer channels.
NARROW = "narrow"
#: Methods whose layers sample nothing.
UNCOMPRESSED = ("dense", NARROW, *RIVALS)

# removed fields of 0.1.0, with the values at which they had no effect; a record with another value is history
_IDLE = {"gains": "none", "scale_gradient": "none", "kernel": "linear", "radius": 1}
# the spec of `wsnet` in 0.1.0: the rule strided computes the same; all other settings of `separable` were removed
_SEPARABLE_WSNET = {"along": "strided", "across": "strided", "spread": 0}


def identity_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The identity with these parts. Empty parts are left out, so new options do not change old identities."""
    return {name: value for name, value in plain(parts).items() if value not in (None, False, 0, {}) or name == "seed"}


def id_of(identity: Mapping[str, Any]) -> str:
    """Hash of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def recipe_identity(recipe: Recipe, usual_bits: int) -> dict[str, Any]:
    """The values of a recipe that differ from the defaults.

    The spec is written out with its values. If a preset changes, its old records then no longer match.

    Args:
        recipe: Recipe of a cell.
        usual_bits: Value of `planned_bits` that is left out.
    """
    given = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
    usual = {field.name: field.default for field in fields(Recipe)} | {"planned_bits": usual_bits}
    own = {name: value for name, value in given.items() if value not in (usual[name], {})}
    if recipe.preset in UNCOMPRESSED:
        own.pop("planned_bits", None)  # no effect here
        return plain(own | {"spec": recipe.preset})
    return plain(own | {"spec": spec_identity(recipe.spec)})


def spec_identity(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """The preset of a spec, and its values that differ from the defaults of `Spec`."""
    seed = {} if isinstance(given, str) or "seed" not in given else {"seed": given["seed"]}
    return _told(spec(given)) | seed  # without a seed in the spec, the cell's seed is used


def _told(made: Spec) -> dict[str, Any]:
    usual = {field.name: field.default for field in fields(Spec)}
    own = {f.name: getattr(made, f.name) for f in fields(Spec) if f.name not in ("options", "by_kind")}
    told = {name: value for name, value in own.items() if value != usual[name]}
    standard = {field.name: field.default for field in fields(made.settings)}
    options = {name: value for name, value in made.options.items() if value != standard[name]}
    kinds = {kind: _without_empty(changes) for kind, changes in made.by_kind.items()}
    return plain(_without_empty({**told, "preset": made.preset, "options": options, "by_kind": _without_empty(kinds)}))


def _without_empty(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value not in ({}, None)}


def plain(value: Any) -> Any:
    """JSON data, with whole floats as integers: 8 and 8.0 are the same ratio."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# --- identities of version 0.1.0 ------------------------------------------------------------------------------------


def present(identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """An identity in the present form; `None` if it used something that was removed, as no grid can ask for it.

    Args:
        identity: Identity in a record, of this version or of 0.1.0.
    """
    if "recipe" in identity or "model" not in identity:
        return dict(identity)
    try:
        return _since_010(identity)
    except AutosampleError:
        return None


def _since_010(old: Mapping[str, Any]) -> dict[str, Any] | None:
    changes, overrides, size = old.get("changes", {}), old.get("overrides", {}), dict(old.get("size", {}))
    like = size.get("like", {})
    if any(_used(data) for data in (changes, like, *overrides.values())):
        return None
    kept = {k: v for k, v in old.items() if k not in ("model", "model_args", "preset", "changes", "overrides", "size")}
    quantize = {k: v for k, v in old.get("quantize", {}).items() if k != "gains"}  # had no effect without gains
    bits = quantize.get("bits", 32)
    if like:
        size["like"] = _spec_since_010(like, like["preset"])
    rule = changes.get("rule")
    recipe = Recipe(
        model=old["model"],
        spec=old["preset"],
        overrides={k: upgraded(v, rule) if isinstance(v, Mapping) else v for k, v in overrides.items()} or None,
        planned_bits=changes.get("bits", bits),
        **old.get("model_args", {}),
    )
    told = recipe_identity(recipe, bits)
    if old["preset"] not in UNCOMPRESSED:
        told["spec"] = _spec_since_010(changes, old["preset"])
    return identity_of({**kept, "recipe": told, "size": size, "quantize": quantize})


def _spec_since_010(old: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """The identity of a spec. 0.1.0 wrote all fields of the preset, merged with the changes."""
    made = Spec.from_dict({**upgraded(old, PRESETS[preset].get("rule")), "preset": preset})
    return _told(made) | ({"seed": old["seed"]} if "seed" in old else {})


def _used(data: Any) -> bool:
    """Whether fields of a 0.1.0 spec use something that was removed."""
    if not isinstance(data, Mapping):
        return False
    if data.get("rule") == "gumbel":
        return True
    if data.get("rule") == "separable" and any(data.get(k) != v for k, v in _SEPARABLE_WSNET.items()):
        return True
    kinds = data.get("by_kind", {}).values()
    return any(data.get(k, idle) != idle for k, idle in _IDLE.items()) or any(_used(own) for own in kinds)
