"""What replaces the spec fields of version 0.1.0, as a message for users with an old spec."""

_OPTIONS = {
    "rate": "0.1", "freeze_at": "0.6", "afford": "0.1", "start": '"random"', "unit": '"sigmoid"', "candidates": "8",
    "spatial": "8", "channel": "4", "strides": '"any"',
}  # fmt: skip
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
}


def moved(name: str) -> str:
    """One line on what replaces a field, an option or a rule of version 0.1.0; empty if it had none of that name."""
    if name in _OPTIONS:
        return (
            f'"{name}" is an option of the rule, not a field of the spec: write options={{"{name}": {_OPTIONS[name]}}}'
        )
    if name == "bits":
        return '"bits" is no longer a field of a spec: pass planned_bits=4 to convert_, then call quantize_'
    if name == "execution":
        return '"execution" is no longer a field of a spec: use the context manager autosample.nn.execution("reuse")'
    return f'"{name}" was removed: {_GONE[name]}' if name in _GONE else ""
