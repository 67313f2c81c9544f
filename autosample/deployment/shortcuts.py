"""Residual blocks whose last convolution adds the shortcut itself: the sum and the ReLU cost no passes of their own.

What a module's forward pass adds cannot be seen from outside, so only blocks whose code is known are changed.
"""

import sys
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from autosample.deployment.folding import swap
from autosample.deployment.layers import PlannedLayer
from autosample.deployment.whole import Way
from autosample.reuse.folded import FoldedMaps
from autosample.system.copying import copied
from autosample.system.hooks import has_hooks


@dataclass(frozen=True)
class _Known:
    """The children of a block: those before its last convolution, that one, its norm and the ReLU after the sum."""

    before: tuple[str, ...]
    last: str
    norm: str
    act: str


# classes of `timm.models.resnet`: `act(se(norm(last(before(x)))) + downsample(x))`
_BLOCKS = {
    "BasicBlock": _Known(("conv1", "bn1", "drop_block", "act1", "aa"), "conv2", "bn2", "act2"),
    "Bottleneck": _Known(("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa"), "conv3", "bn3", "act3"),
}
# children that the changed block does without
_ABSENT = ("se", "drop_path")


class Residual(nn.Module):
    """A residual block of timm, for inference; made by `autosample.deploy`. Children keep their names."""

    downsample: nn.Module | None

    def __init__(self, block: nn.Module, known: _Known) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.downsample = getattr(block, "downsample", None)
        self._known = known
        self.eval()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        y = x
        for name in self._known.before:
            y = getattr(self, name)(y)
        shortcut = x if self.downsample is None else self.downsample(x)
        last = getattr(self, self._known.last)
        if isinstance(last, FoldedMaps):
            return last(y, shortcut)
        return getattr(self, self._known.act)(last(y) + shortcut)  # in the form of a file


def with_shortcuts(model: nn.Module, rows: list[PlannedLayer]) -> list[Way]:
    """A copy in which the last layer of each known residual block adds the shortcut; empty if there are no such blocks.

    Args:
        model: A planned model.
        rows: Its plans.
    """
    found = {name: known for name, m in model.named_modules() if (known := _known(m)) is not None}
    if not found:
        return []
    changed = copied(model)
    for name, known in found.items():
        block = changed.get_submodule(name)
        changed = swap(changed, block, Residual(block, known))
    layers = {f"{name}.{known.last}".lstrip(".") for name, known in found.items()}
    return [(changed, [replace(r, folded=(*r.folded, "shortcut", "relu")) if r.name in layers else r for r in rows])]


def _known(block: nn.Module) -> _Known | None:
    """The children of a block that can be changed; `None` for all others."""
    module = sys.modules.get("timm.models.resnet")
    name = type(block).__name__
    if name not in _BLOCKS or type(block) is not getattr(module, name, None) or "forward" in vars(block):
        return None
    known = _BLOCKS[name]
    last, act = getattr(block, known.last), getattr(block, known.act)
    untouched = not has_hooks(block, last, act)
    plain = type(getattr(block, known.norm)) is nn.Identity and type(act) is nn.ReLU
    absent = all(type(getattr(block, name)) in (type(None), nn.Identity) for name in _ABSENT)
    free = isinstance(last, FoldedMaps) and not last.relu and last.pool == 1 and len(last.frame.kernel) == 2
    ordered = free and last.selection.slots is None  # the shortcut's channels are in the order of the filters
    return known if untouched and plain and absent and ordered else None
