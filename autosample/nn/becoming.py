"""From a dense layer to its compressed twin, by the method of its spec."""

from typing import Any

from torch import nn

from autosample.nn.coded import CodedLayer
from autosample.nn.compressed import Compressed
from autosample.nn.layer import SummaryLayer
from autosample.nn.sum_product import SumProductLayer
from autosample.sampling.rules import RULES, SumProducts
from autosample.sampling.sizing import settle
from autosample.sampling.spec import Spec

_TITLED: dict[str, type[Compressed]] = {kind.title: kind for kind in (SummaryLayer, CodedLayer, SumProductLayer)}
# Rules whose row must be known before any layer is.
_LAYERS: dict[type, type[Compressed]] = {SumProducts: SumProductLayer}


def method_of(spec: Spec) -> type[Compressed]:
    """The layer class of a spec's rule."""
    kind = RULES[spec.rule]
    kind = _LAYERS.get(kind, kind)
    return kind if issubclass(kind, Compressed) else SummaryLayer


def method_called(title: str) -> type[Compressed] | None:
    """The layer class with this name in saved models, if this process knows one."""
    rule = RULES.get(title)
    return _TITLED.get(title) or (rule if isinstance(rule, type) and issubclass(rule, Compressed) else None)


def become(layer: nn.Module, spec: Spec, name: str = "", bits: int = 32) -> Any:
    """Turn a dense layer into its compressed twin, in place; see `Compressed.take_over`.

    Args:
        layer: A dense layer.
        spec: Spec for all layer kinds.
        name: Name of the layer in its model.
        bits: Planned bits per stored number.
    """
    weight = layer._parameters["weight"]
    assert weight is not None
    own = settle(spec, weight.shape, bits)
    return method_of(own).take_over(layer, own, name)
