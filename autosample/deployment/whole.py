"""Find the fastest of several models with equal outputs."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.deployment.layers import PlannedLayer
from autosample.deployment.parts import ConvInParts
from autosample.deployment.verify import Example, arguments, is_same, outputs
from autosample.reuse.deployed import Deployed
from autosample.reuse.planner import MARGIN
from autosample.system.timing import time_in_turn

_ROUNDS = 9
Way = tuple[nn.Module, list[PlannedLayer]]


def fastest(ways: Sequence[Way], example: Example, expected: list[Tensor]) -> Way:
    """The fastest of several models with equal outputs, in torch's usual memory format or with channels last.

    Layers were timed one by one. Between layers, changes of the memory format cost time too. Layers that reuse work
    prefer the usual format, so a model with such layers gets another one only for a clear gain. A model of only dense
    layers keeps the usual format only for a clear gain, because compilers gain more from channels last than eager torch
    does.

    Args:
        ways: The models, and the plans of their layers.
        example: An example input.
        expected: The outputs that all models must give for it.
    """
    sides: list[tuple[nn.Module, list[PlannedLayer], float]] = []
    for model, rows in ways:
        other = _channels_last(model, example, expected)
        usual = other is None or any(isinstance(m, Deployed) for m in model.modules())
        sides.append((model, rows, MARGIN if usual else 1.0))
        sides += [] if other is None else [(other, rows, 1.0 if usual else MARGIN)]
    if len(sides) == 1:
        return sides[0][:2]
    args = arguments(example)
    device = next((t.device for t in tree_leaves(args) if isinstance(t, Tensor)), None)
    taken = time_in_turn([lambda m=m: m(*args) for m, _, _ in sides], rounds=_ROUNDS, device=device)
    counted = [t.median * favour for t, (_, _, favour) in zip(taken, sides, strict=True)]
    return sides[counted.index(min(counted))][:2]


def _channels_last(model: nn.Module, example: Example, expected: list[Tensor]) -> nn.Module | None:
    """The model with channels last in its dense convolutions; `None` if there are none, or if that fails."""
    other = copy.deepcopy(model)
    settled = {m.conv for m in other.modules() if isinstance(m, ConvInParts)}
    convs = [m for m in other.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m not in settled]
    for conv in convs:
        cast(Any, conv).to(memory_format=torch.channels_last)  # sets strides of 1x1 weights too, unlike `contiguous`
    try:
        return other if convs and is_same(expected, outputs(other, example)) else None
    except RuntimeError:  # the model may use views that only torch's usual layout allows
        return None
