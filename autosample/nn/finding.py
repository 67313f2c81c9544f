"""Finding the compressed layers of a model."""

from collections.abc import Iterator

from torch import nn

from autosample.nn.compressed import Compressed


def compressed_layers(model: nn.Module) -> dict[str, Compressed]:
    """The compressed layers of a model by name; `""` is the model itself."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Compressed)}


def outer_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()` without the rules and quantizers inside compressed layers."""
    inside: set[int] = set()
    for name, module in model.named_modules():
        if id(module) not in inside:
            yield name, module
            if isinstance(module, Compressed):
                inside.update(id(part) for part in module.inner_modules())
