"""A dense convolution and what follows it, a few examples of a batch at a time.

Intermediate results then stay in the cache, and their memory is reused for the next examples.
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, library, nn

from autosample.reuse.planner import MARGIN
from autosample.reuse.timings import remembered, signature
from autosample.system.timing import time_in_turn
from autosample.system.tracing import is_exporting, keep_whole

Pool = nn.MaxPool1d | nn.MaxPool2d
# Below this, intermediate results stay in the cache anyway [bytes].
_LARGE = 4 << 20
_SIZES = (1, 2, 4)


def _chain(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int],
    groups: int, relu: bool, pool: list[int],
) -> Tensor:  # fmt: skip
    """Convolution, ReLU and max-pool; `pool` is kernel, stride, padding and dilation of each axis, or empty."""
    axes = x.dim() - 2
    y = (F.conv1d if axes == 1 else F.conv2d)(x, weight, bias, stride, padding, dilation, groups)
    if relu:
        y = y.relu_()
    if not pool:
        return y
    kernel, step, pad, apart = (pool[i * axes : (i + 1) * axes] for i in range(4))
    return (F.max_pool1d if axes == 1 else F.max_pool2d)(y, kernel, step, pad, apart, ceil_mode=bool(pool[-1]))


# written out, because torch 2.6 cannot infer it from `list[int]`
_SCHEMA = (
    "(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "
    "bool relu, SymInt[] pool, SymInt size) -> Tensor"
)


@library.custom_op("autosample::conv_in_parts", mutates_args=(), schema=_SCHEMA)
def conv_in_parts(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int],
    groups: int, relu: bool, pool: list[int], size: int,
) -> Tensor:  # fmt: skip
    """`_chain` for `size` examples at a time; the output has torch's usual layout."""
    out = None
    for start in range(0, max(len(x), 1), size):
        y = _chain(x[start : start + size], weight, bias, stride, padding, dilation, groups, relu, pool)
        if out is None:
            out = y.new_empty((len(x), *y.shape[1:]))
        out[start : start + size] = y
    assert out is not None
    return out


@conv_in_parts.register_fake
def _(x, weight, bias, stride, padding, dilation, groups, relu, pool, size):
    y = _chain(x, weight, bias, stride, padding, dilation, groups, relu, pool)
    return y.new_empty(y.shape)


class ConvInParts(nn.Module):
    """A dense convolution, a ReLU and a max-pool, for inference; made by `autosample.deploy`.

    Input and output are those of the modules it replaces. A batch is processed a few examples at a time, unless
    gradients, autocast or an export need the operators themselves.

    Args:
        conv: A `Conv1d` or `Conv2d` with zeros for padding.
        relu: Whether a ReLU follows.
        pool: The max-pool that follows, if any.
        size: Number of examples at a time.
    """

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, relu: bool, pool: Pool | None, size: int) -> None:
        super().__init__()
        keep_whole(self)
        self.conv, self.relu, self.size = conv, relu, size
        self.pool = [] if pool is None else _numbers(pool, len(conv.kernel_size))

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if input.dim() == len(self.conv.kernel_size) + 1:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        plain = (input.requires_grad and torch.is_grad_enabled()) or is_exporting()
        if plain or torch.is_autocast_enabled(input.device.type):
            return self.whole(input)
        return conv_in_parts(*self._arguments(input), self.size)

    def whole(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b n *out"]:
        """The same for the whole batch at once, in standard operators."""
        return _chain(*self._arguments(x))

    def standard(self) -> nn.Sequential:
        """The modules that this one replaces; the convolution is the same object."""
        axes = len(self.conv.kernel_size)
        steps: list[nn.Module] = [nn.ReLU()] if self.relu else []
        if self.pool:
            kernel, step, pad, apart = (tuple(self.pool[i * axes : (i + 1) * axes]) for i in range(4))
            kind = nn.MaxPool1d if axes == 1 else nn.MaxPool2d
            steps.append(kind(kernel, step, pad, apart, ceil_mode=bool(self.pool[-1])))
        return nn.Sequential(self.conv, *steps)

    def _arguments(self, x: Tensor) -> tuple:
        c = self.conv
        return x, c.weight, c.bias, [*c.stride], [*c.padding], [*c.dilation], c.groups, self.relu, self.pool

    def extra_repr(self) -> str:
        return f"{self.size} at a time{', relu' if self.relu else ''}{', max-pool' if self.pool else ''}"


def _numbers(pool: Pool, axes: int) -> list[int]:
    """The arguments of `_chain` for a pool."""
    values = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    flat = [n for v in values for n in ([v] * axes if isinstance(v, int) else list(v))]
    return [*flat, int(pool.ceil_mode)]


@torch.no_grad()
def in_parts(conv: nn.Module, relu: bool, pool: Pool | None, x: Tensor) -> tuple[ConvInParts, str] | None:
    """The module that processes a batch like `x` in parts, and how much faster that is; `None` if it is not faster.

    Measured on random numbers, and cached; only shape, type and device of `x` matter.
    """
    if type(conv) not in (nn.Conv1d, nn.Conv2d) or not (relu or pool) or x.dim() < 3 or len(x) < 2:
        return None
    conv = cast(nn.Conv1d | nn.Conv2d, conv)
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or x.dim() != conv.weight.dim():
        return None
    x = torch.randn(x.shape, device=x.device).to(x.dtype)
    if conv(x[:1]).nbytes * len(x) < _LARGE:
        return None
    parts, whole = _candidates(conv, relu, pool, len(x))
    sides = {name: (lambda m=m: m(x)) for name, m in parts.items()}
    sides |= {name: (lambda m=m: m.whole(x).contiguous()) for name, m in whole.items()}
    shapes = (tuple(x.shape), tuple(conv.weight.shape), conv.stride, conv.padding, conv.dilation, conv.groups)
    key = signature(x.device, x.dtype, "parts", shapes, conv.bias is None, relu, pool and repr(pool))

    def measure() -> dict[str, float]:
        taken = time_in_turn(list(sides.values()), rounds=11, budget=0.6, device=x.device)
        return {name: t.median for name, t in zip(sides, taken, strict=True)}

    taken = remembered(key, list(sides), measure)
    best, dense = min(parts, key=lambda name: taken[name]), min(taken[name] for name in whole)
    if taken[best] > MARGIN * dense:
        return None
    return parts[best], f"{parts[best].size} of a batch at a time, measured {dense / taken[best]:.1f}x"


def _candidates(
    conv: nn.Conv1d | nn.Conv2d, relu: bool, pool: Pool | None, batch: int
) -> tuple[dict[str, ConvInParts], dict[str, ConvInParts]]:
    """Modules by name, for parts of several sizes and for the whole batch, in the existing layouts."""
    parts, whole = {}, {}
    for layout in (torch.contiguous_format, *([torch.channels_last] if isinstance(conv, nn.Conv2d) else [])):
        twin = copy.deepcopy(conv)
        twin.weight.data = twin.weight.contiguous(memory_format=layout)
        parts |= {f"{s} {layout}": ConvInParts(twin, relu, pool, s) for s in _SIZES if s < batch}
        whole[f"all {layout}"] = ConvInParts(twin, relu, pool, batch)
    return parts, whole
