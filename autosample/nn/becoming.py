"""From a dense layer to its compressed twin, by whichever method its spec asks for."""

from typing import Any

from torch import nn

from autosample.nn.coded import CodedLayer
from autosample.nn.compressed import Compressed
from autosample.nn.layer import SummaryLayer
from autosample.sampling.rules import RULES
from autosample.sampling.sizing import settle
from autosample.sampling.spec import Spec

_TITLED: dict[str, type[Compressed]] = {kind.title: kind for kind in (SummaryLayer, CodedLayer)}


def method_of(spec: Spec) -> type[Compressed]:
    """The class of layers that a spec's rule makes."""
    kind = RULES[spec.rule]
    return kind if issubclass(kind, Compressed) else SummaryLayer


def method_called(title: str) -> type[Compressed] | None:
    """The class of layers that has this name in saved models, if there is one in this process."""
    rule = RULES.get(title)
    return _TITLED.get(title) or (rule if isinstance(rule, type) and issubclass(rule, Compressed) else None)


def become(layer: nn.Module, spec: Spec, name: str = "", bits: int = 32) -> Any:
    """Turn a dense layer into its compressed twin, in place; see `Compressed.take_over`.

    Args:
        layer: Dense.
        spec: For layers of every kind.
        name: Of the layer in its model.
        bits: Bits that a stored number will have.
    """
    weight = layer._parameters["weight"]
    assert weight is not None
    return method_of(spec).take_over(layer, settle(spec, weight.shape, bits), name)
