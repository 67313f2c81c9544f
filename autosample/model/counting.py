"""Operations of a forward pass, layer by layer."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.nn import Compressed, execution, outer_modules
from autosample.nn.facts import Operations
from autosample.reuse.deployed import Deployed
from autosample.system.calling import trying

#: the layers that a report lists
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, Deployed)


@torch.no_grad()
def count_operations(model: nn.Module, example: Tensor | tuple) -> dict[str | None, Operations]:
    """Operations of one forward pass by layer name; `None` holds those outside convolutions and linear layers.

    Counted by `torch.utils.flop_counter`. A summary layer counts as its dense layer, without the sampling of the
    weight; a deployed layer counts what it still computes.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counts: dict[str, list[int]] = {}
    counter = FlopCounterMode(display=False)
    started: dict[str, int] = {}
    made: list[int] = []  # a layer that is called twice computes its weight twice

    def before(name: str):
        return lambda module, args: started.__setitem__(name, counter.get_total_flops())

    def after(name: str, layer: nn.Module):
        def hook(module, args, output) -> None:
            spent = counter.get_total_flops() - started[name] - making[name]
            sizes = (sum(t.numel() for t in tree_leaves(side) if isinstance(t, Tensor)) for side in (args, output))
            counts[name] = [a + b for a, b in zip(counts.get(name, (0, 0, 0)), (spent // 2, *sizes), strict=True)]
            made.append(making[name])

        return hook

    layers = {n: m for n, m in outer_modules(model) if isinstance(m, LAYERS)}
    making = {name: _making(layer) for name, layer in layers.items()}
    hooks = [layer.register_forward_pre_hook(before(name)) for name, layer in layers.items()]
    hooks += [layer.register_forward_hook(after(name, layer)) for name, layer in layers.items()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with execution("materialize"), counter, trying(example):
            model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    rest = (counter.get_total_flops() - sum(made)) // 2 - sum(count[0] for count in counts.values())
    own = {name: _operations(layers[name], *count) for name, count in counts.items()}
    return {**own, None: Operations(rest, rest, rest)}


def _operations(layer: nn.Module, counted: int, read: int, made: int) -> Operations:
    if isinstance(layer, Compressed):
        return layer.operations(counted, read, made)
    return Operations(counted, counted, counted)


def _making(layer: nn.Module) -> int:
    """Operations that compute the weight from its summary (densify)."""
    if not isinstance(layer, Compressed) or not (layer.by_weight and layer.has_weight):
        return 0
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        layer.dense_weight()
    return counter.get_total_flops()
