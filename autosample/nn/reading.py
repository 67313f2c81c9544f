"""Read specs and sizes from files, and check them before anything is built."""

from typing import Any

from autosample.errors import DAMAGED, ArtifactError, SpecError, hint, one_line
from autosample.sampling.geometry import Geometry
from autosample.sampling.spec import Spec
from autosample.sampling.upgrade import chosen_columns
from autosample.system.checking import as_int, as_list, as_map, as_plain, as_text, take

_NUMBERS = ("filters", "channels", "windows", "length", "grid", "sampled")


def read_spec(data: Any, where: str = "spec") -> Spec:
    """The spec that plain data from a file describe.

    Raises:
        ArtifactError: The data are not a valid spec.
    """
    given = as_plain(as_map(data, where), where)
    if not isinstance(given.get("preset", ""), str):
        raise ArtifactError(f"{where}.preset must be text, got {given['preset']!r:.80}: {DAMAGED}")
    try:
        return Spec.from_dict(chosen_columns(given))
    except (SpecError, TypeError) as error:
        raise ArtifactError(f"{where} is not valid: {one_line(error)}") from error


def read_geometry(data: Any, where: str = "geometry") -> Geometry:
    """The inverse of `dataclasses.asdict` of a `Geometry`.

    Raises:
        ArtifactError: The data are not valid sizes of a summary.
    """
    got = take(as_map(data, where), where, ("layout", "kernel", *_NUMBERS))
    kernel = tuple(as_int(k, f"{where}.kernel", 1) for k in as_list(got["kernel"], f"{where}.kernel"))
    sizes = {name: as_int(got[name], f"{where}.{name}", 1) for name in _NUMBERS}
    layout = as_text(got["layout"], f"{where}.layout")
    if layout not in ("taps", "flat"):
        near = hint(layout[:80], ["taps", "flat"])
        raise ArtifactError(f"{where}.layout must be taps or flat, got {layout[:80]!r}: {near}")
    g = Geometry(layout=layout, kernel=kernel, **sizes)
    most = g.channels if layout == "taps" else g.channels * g.taps
    if g.windows > most or g.window > g.length or g.sampled % g.filters:
        raise ArtifactError(f"{where} must describe windows that fit the layer, got {dict(got)}: {DAMAGED}")
    return g
