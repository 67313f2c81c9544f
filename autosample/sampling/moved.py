"""What to write instead of a name that a spec does not have: an option of a rule, or a field of version 0.1.0."""

import json
from dataclasses import fields
from typing import Any

from autosample.sampling.rules import RULES

_LOG = "see docs/research-log.md"
_GONE = {
    "gains": _LOG,
    "scale_gradient": _LOG,
    "kernel": f"neighbours are mixed linearly; {_LOG}",
    "radius": f"neighbours are mixed linearly; {_LOG}",
    "along": 'the rule "separable" is gone, and preset "wsnet" uses the rule "strided"',
    "across": 'the rule "separable" is gone, and preset "wsnet" uses the rule "strided"',
    "spread": 'the rule "separable" is gone, and preset "wsnet" uses the rule "strided"',
    "gumbel": f'use "categorical"; {_LOG}',
    "separable": 'preset "wsnet" now uses the rule "strided"',
    "columns: learned": f'use "shuffle", or rule "folded" with options={{"assignment": "learned"}}; {_LOG}',
}


def moved(name: str, value: Any = None) -> str:
    """One line on what replaces a field, an option or a rule that a spec does not have; empty if nothing does.

    Args:
        name: The unknown name, or `field: word`.
        value: What it was set to.
    """
    if any(name == field.name for rule in RULES.values() for field in fields(rule.Options)):
        given = json.dumps(value, default=str)[:60]
        return f'"{name}" is an option of the rule, not a field of the spec: write options={{"{name}": {given}}}'
    if name == "bits":
        return '"bits" is no longer a field of a spec: pass planned_bits=4 to convert_, then call quantize_'
    if name == "execution":
        return '"execution" is no longer a field of a spec: use the context manager autosample.nn.execution("reuse")'
    return f'"{name}" was removed: {_GONE[name]}' if name in _GONE else ""
