"""Structured pruning: layers lose channels, by Torch-Pruning. It needs `autosample[rivals]`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autosample.budget.search import Point, descend, narrow
from autosample.errors import ConfigError, one_line
from autosample.system.copying import copied
from autosample.system.extras import require
from autosample.system.quiet import quiet

# the search ends at this share of the bytes, or when two shares of channels are nearer than this factor
_NEAR, _STEP = 2e-3, 1 + 1e-4
_LARGEST = 1e4


class Pruned:
    """Every layer but the classifier keeps the same share of its channels, and at least one.

    Channels that are added or read together are one group. The groups with the smallest norm of their weights go
    (Fang et al. 2023).
    """

    def check(self) -> None:
        """Raise `MissingExtra` if Torch-Pruning is not installed."""
        require("rivals", "torch_pruning")

    def shrink_(
        self,
        net: nn.Module,
        target: float,
        cost: Callable[[nn.Module], int],
        *,
        patterns: Mapping[str, Any],
        shape: Sequence[int],
    ) -> dict[str, Any]:
        """As for every rival; patterns have no effect, and the bytes are the nearest to the target."""

        def size(ratio: float) -> int:
            twin = copied(net)
            prune_(twin, 1 / ratio, shape)
            return cost(twin)

        dense = cost(net)
        points = descend(size, target, Point(1.0, dense), stride=2.0, largest=_LARGEST)
        if not points[-1].cost <= target < dense:
            least = min(int(point.cost) for point in points)
            raise ConfigError(
                f"a pruned net must store from {least:,} to {dense - 1:,} bytes, got {target:,.0f}: change the size"
            )
        points += narrow(size, target, *points[-2:], step=_STEP, enough=lambda p: abs(p.cost / target - 1) < _NEAR)
        best = min(points, key=lambda point: abs(point.cost - target))
        prune_(net, 1 / best.ratio, shape)
        return {"channels": 1 / best.ratio}


def prune_(net: nn.Module, share: float, shape: Sequence[int]) -> None:
    """Keep a share of the channels of each layer. Their number does not depend on the weights.

    Raises:
        ConfigError: Torch-Pruning cannot prune this net.
    """
    import torch_pruning  # pyright: ignore[reportMissingImports]

    x, mode, ends = torch.zeros(1, *shape), net.training, _classifiers(net)
    inner = [m for m in net.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd) and m not in ends]
    try:
        with quiet(), torch.enable_grad():
            outputs = net.eval()(x).shape
            torch_pruning.pruner.BasePruner(
                net,
                x,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio_dict={layer: _removed(layer, share) for layer in inner},
                ignored_layers=ends,
                # its defaults are shared by all pruners, which fill them
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
            ).step()
            if net.eval()(x).shape != outputs:
                raise ValueError("outputs were removed, as it has no get_classifier")
    except Exception as error:  # it knows only some operations, and fails in many ways
        raise ConfigError(
            f"Torch-Pruning must know all layers of a net, got {type(net).__name__} ({one_line(error)[:120]}): "
            "remove pruned from the presets"
        ) from error
    net.train(mode)


def _classifiers(net: nn.Module) -> list[nn.Module]:
    """The layers whose outputs are the classes."""
    found = net.get_classifier() if hasattr(net, "get_classifier") else None  # pyright: ignore[reportCallIssue]
    return [m for part in (found if isinstance(found, tuple) else [found]) if part is not None for m in part.modules()]


def _removed(layer: nn.Module, share: float) -> float:
    """The share of channels to remove: of a whole number of channels, half a channel below it against rounding."""
    channels: int = layer.weight.shape[0]  # pyright: ignore
    return 1 - (max(1, round(share * channels)) + 0.5) / channels
