"""Low rank: a layer becomes two, by the truncated singular value decomposition of its weight."""

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autosample.errors import ConfigError
from autosample.model.select import choose_layers
from autosample.nn.kinds import is_plain
from autosample.sampling.spec import spec
from autosample.system.copying import without_values
from autosample.system.quiet import quiet

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank:
    """Ranks by energy: the product of the energies that the layers keep is as large as the bytes allow.

    The energy of a layer is the sum of the squares of its singular values that are kept, as a share of all. Only layers
    that conversion would take change. Each has a rank of at least 1. A layer whose two factors would store no less than
    its weight stays whole.
    """

    def check(self) -> None:
        """Nothing can be missing."""

    def shrink_(
        self,
        net: nn.Module,
        target: float,
        cost: Callable[[nn.Module], int],
        *,
        patterns: Mapping[str, Any],
        shape: Sequence[int],
    ) -> dict[str, Any]:
        """As for every rival; the net stores at most the target."""
        layers, light = _layers(net, patterns), without_values(net)

        def size(ranks: Mapping[str, int]) -> int:
            twin = without_values(light)
            factorise_(twin, ranks)
            return cost(twin)

        least = dict.fromkeys(layers, 1)
        if not size(least) <= target < cost(light):
            raise ConfigError(
                f"a low-rank net must store from {size(least):,} to {cost(light) - 1:,} bytes, got {target:,.0f}: "
                "change the size"
            )
        order = _by_gain(layers)
        first = bisect_right(range(len(order)), target, key=lambda count: size(_counted(least, order[:count]))) - 1
        ranks = _counted(least, order[:first])
        for name in dict.fromkeys(order[first:]):  # the next one is too large, but others may fit
            more = _counted(ranks, [name])
            ranks = more if size(more) <= target else ranks
        factorise_(net, ranks)
        return {"ranks": ranks}


def _counted(ranks: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """Ranks with one more for each mention of a layer."""
    more = Counter(names)
    return {name: rank + more[name] for name, rank in ranks.items()}


def _layers(net: nn.Module, patterns: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The layers that conversion would take, except those whose classes compute in ways of their own."""
    with quiet():
        choices = choose_layers(net, spec("random", ratio=2.0), **patterns)
    usual = (nn.Linear, *_CONVOLUTIONS)
    chosen = {choice.name: choice.layer for choice in choices if choice.spec is not None and choice.name}
    return {name: layer for name, layer in chosen.items() if is_plain(type(layer)) and isinstance(layer, usual)}


def _by_gain(layers: Mapping[str, nn.Module]) -> list[str]:
    """The layers in the order in which each gets its second, third, … rank: by growth of log energy per number."""
    steps: list[tuple[float, str]] = []
    for name, layer in layers.items():
        matrices = _matrices(layer).double()
        rows, columns = matrices.shape[1:]
        square = matrices @ matrices.mT if rows <= columns else matrices.mT @ matrices
        energy = torch.linalg.eigvalsh(square).clamp_min(0).sum(0).flip(0).cumsum(0).clamp_min(1e-300)
        gains = energy.log().diff() / (len(matrices) * (rows + columns))
        steps += [(-gain, name) for gain in gains.tolist()]
    return [name for _, name in sorted(steps)]


def factorise_(net: nn.Module, ranks: Mapping[str, int]) -> None:
    """Replace layers, by name, by two layers of a rank."""
    for name, rank in ranks.items():
        layer = net.get_submodule(name)
        if (pair := factorised(layer, rank)) is not None:
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, pair.train(layer.training))


def _matrices(layer: nn.Module) -> Tensor:
    """The weight of a layer as one matrix per convolution group: filters × numbers of a filter."""
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    assert isinstance(weight, Tensor)
    return weight.detach().reshape(groups, len(weight) // groups, -1)


def factorised(layer: nn.Module, rank: int) -> nn.Sequential | None:
    """Two layers in place of a convolution or linear layer; `None` if they would not store fewer numbers.

    The first has `rank` outputs per convolution group, and the kernel, stride and padding of the layer; the second has
    1×1 kernels and the bias. `W = (U·√S)·(√S·V)`, cut after the `rank` largest singular values.
    """
    matrices = _matrices(layer)
    groups, rows, columns = matrices.shape
    if rank * (rows + columns) >= rows * columns:
        return None
    bias: Tensor | None = layer.bias  # pyright: ignore[reportAssignmentType]
    place = {"device": matrices.device, "dtype": matrices.dtype}
    if isinstance(layer, nn.Linear):
        pair = nn.Linear(columns, rank, bias=False, **place), nn.Linear(rank, rows, bias=bias is not None, **place)
    else:
        kind: Any = next(kind for kind in _CONVOLUTIONS if isinstance(layer, kind))
        same = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        settings = {name: getattr(layer, name) for name in same}
        channels: Any = layer.in_channels
        pair = (
            kind(channels, groups * rank, bias=False, **settings, **place),
            kind(groups * rank, groups * rows, 1, groups=groups, bias=bias is not None, **place),
        )
    _fill(pair, matrices, rank, bias)
    return nn.Sequential(OrderedDict(zip(("first", "second"), pair, strict=True)))


@torch.no_grad()
def _fill(pair: tuple[nn.Module, nn.Module], matrices: Tensor, rank: int, bias: Tensor | None) -> None:
    if matrices.is_meta:
        return
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    root = s[:, :rank].sqrt()
    factors = (root[:, :, None] * v[:, :rank], u[:, :, :rank] * root[:, None, :])
    for layer, factor in zip(pair, factors, strict=True):
        layer.weight.copy_(factor.reshape(layer.weight.shape))  # pyright: ignore
    if bias is not None:
        pair[1].bias.copy_(bias)  # pyright: ignore
