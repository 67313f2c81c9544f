"""The fields of a `Spec` as keyword arguments of functions."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from autosample.sampling.checks import Number

Layout = Literal["auto", "taps", "flat"]
Share = Literal["even", "root"]
Signs = Literal["none", "random"]


class Fields(TypedDict, total=False):
    """The fields of a `Spec` but `preset`, as keyword arguments that editors complete and check."""

    rule: str
    options: Mapping[str, Any] | None
    ratio: Number | None
    share: Share
    layout: Layout
    windows: int | None
    window: int | Literal["row"] | None
    grid: int | Literal["window"]
    columns: str
    signs: Signs
    denser: int
    seed: int
    by_kind: Mapping[str, Mapping[str, Any]]
