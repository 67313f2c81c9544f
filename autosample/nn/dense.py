"""The way back: a summary layer becomes its dense torch twin."""

import torch
from torch import nn

from autosample.nn.layer import SummaryLayer


@torch.no_grad()
def to_dense_(layer: SummaryLayer) -> nn.Module:
    """Turn a summary layer into its dense torch twin, in place: the weight is sampled once and kept, frozen."""
    weight = layer.weight.detach().clone()
    for name in SummaryLayer.__annotations__:
        for store in (layer._parameters, layer._buffers, layer._modules, layer.__dict__):
            store.pop(name, None)
    layer.__class__ = layer._dense_class  # pyright: ignore[reportAttributeAccessIssue]
    layer.weight = nn.Parameter(weight, requires_grad=False)  # pyright: ignore[reportAttributeAccessIssue]
    return layer
