"""What a sum-product layer computes (StrassenNets): sums of its input, a factor for each, and sums of these.

Patch `t` of the outputs, `p` along each axis, reads what a convolution reads for these outputs; so does each product.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from autosample.reuse.deployed import Deployed

_CONVOLVE = {1: F.conv1d, 2: F.conv2d}
_SPREAD = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


@dataclass(frozen=True)
class Patches:
    """Where a sum-product layer reads and writes. All fields but `patch` are empty or one for a linear layer.

    Attributes:
        kernel, stride, dilation: Of the convolution that the layer takes the place of.
        padding: As `torch.nn.functional.pad` takes it, the last axis first.
        mode: Kind of padding.
        patch: Side `p` of an output patch.
        groups: Convolution groups.
        inner: Groups that the first matrix keeps apart within each of them.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    mode: str = "zeros"
    patch: int = 1
    groups: int = 1
    inner: int = 1

    @property
    def axes(self) -> int:
        """Spatial axes; 0 for a linear layer."""
        return len(self.kernel)

    @property
    def window(self) -> tuple[int, ...]:
        """Taps of the first matrix along each axis: `k`, or `(p − 1)·q + k` for patches, with the dilation filled."""
        if self.patch == 1:
            return self.kernel
        sizes = zip(self.kernel, self.stride, self.dilation, strict=True)
        return tuple((self.patch - 1) * q + (k - 1) * d + 1 for k, q, d in sizes)

    @property
    def corners(self) -> tuple[int, ...]:
        """Size of an output patch: `(p, …)`."""
        return (self.patch,) * self.axes

    def gathered(self, x: Float[Tensor, "b c *size"], matrix: Float[Tensor, "r m *taps"]) -> Float[Tensor, "b r *t"]:
        """The sums of the input that are multiplied, `W_B vec(B)`, for each patch."""
        if not self.axes:
            return F.linear(x, matrix)
        if any(self.padding):
            x = F.pad(x, self.padding, "constant" if self.mode == "zeros" else self.mode)
        if self.patch > 1:  # the last patch may lie half outside
            x = F.pad(x, [n for q in reversed(self.stride) for n in (0, (self.patch - 1) * q)])
        stride = tuple(self.patch * q for q in self.stride)
        dilation = self.dilation if self.patch == 1 else (1,) * self.axes
        return _CONVOLVE[self.axes](x, matrix, None, stride, 0, dilation, self.groups * self.inner)

    def spread(
        self, y: Float[Tensor, "b r *t"], matrix: Float[Tensor, "r n *corners"], size: tuple[int, ...]
    ) -> Float[Tensor, "b c *out"]:
        """The sums of products, `W_C y`, for an input of this spatial size."""
        if not self.axes:
            return F.linear(y, matrix.t())
        if self.patch == 1:
            parts = matrix.reshape(self.groups, -1, matrix.shape[1]).transpose(1, 2)
            filters = parts.reshape(-1, parts.shape[-1], *[1] * self.axes)
            return _CONVOLVE[self.axes](y, filters, None, 1, 0, 1, self.groups)
        y = _SPREAD[self.axes](y, matrix, None, self.patch, groups=self.groups)
        for axis, length in enumerate(self.out(size)):
            y = y.narrow(2 + axis, 0, length)
        return y

    def out(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Output size for an input size."""
        pads = list(zip(self.padding[::2], self.padding[1::2], strict=True))[::-1]
        sizes = zip(size, pads, self.kernel, self.stride, self.dilation, strict=True)
        return tuple((n + sum(pad) - (k - 1) * d - 1) // q + 1 for n, pad, k, q, d in sizes)

    def dense(
        self, gather: Float[Tensor, "r m *taps"], scale: Float[Tensor, " r"], spread: Float[Tensor, "r n *corners"]
    ) -> Float[Tensor, "n m *kernel"]:
        """The weight of the equal layer, `W_C diag(ã) W_B`, for patches of one output."""
        taps = gather.shape[2:]
        parts = gather.reshape(self.groups, self.inner, -1, gather.shape[1], math.prod(taps))
        blocks = torch.eye(self.inner, dtype=gather.dtype, device=gather.device)
        whole = torch.einsum("gijmk,ih->gijhmk", parts, blocks)  # each product reads one group of channels
        sums = whole.reshape(self.groups, -1, self.inner * gather.shape[1] * math.prod(taps))
        factors = (spread.flatten(1) * scale[:, None]).reshape(self.groups, -1, spread.shape[1])
        return (factors.transpose(1, 2) @ sums).reshape(-1, self.inner * gather.shape[1], *taps)


class SumProductPlan(Deployed):
    """A sum-product layer for inference, with what follows it: made by `autosample.deploy`.

    Args:
        patches: Where it reads and writes.
        gather, spread: The matrices `W_B` and `W_C`, with entries −1, 0 and 1.
        scale, shift: Factor of each sum, and what is added to it, `(r,)`; `shift` may be `None`.
        factors, bias: Factor of each output channel, and what is added to it, `(N,)` or `None`.
        relu, pool: What follows; see `After`.
    """

    def __init__(
        self,
        patches: Patches,
        gather: Tensor,
        scale: Tensor,
        shift: Tensor | None,
        spread: Tensor,
        *,
        factors: Tensor | None = None,
        bias: Tensor | None = None,
        relu: bool = False,
        pool: int = 1,
    ) -> None:
        super().__init__()
        self.patches, self.relu, self.pool = patches, relu, pool
        tensors = {"gather": gather, "spread": spread, "scale": scale, "shift": shift, "factors": factors, "bias": bias}
        for name, tensor in tensors.items():
            self.register_buffer(name, None if tensor is None else tensor.detach().to(scale.dtype).clone())

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return computed(self.patches, input, self._buffers, self.relu, self.pool)

    @property
    def dense_weights(self) -> int:
        p = self.patches
        inputs = self.get_buffer("gather").shape[1] * p.inner
        return self.get_buffer("spread").shape[1] * p.groups * inputs * math.prod(p.kernel)

    @property
    def stored_weights(self) -> int:
        return sum(self.get_buffer(name).numel() for name in ("gather", "spread", "scale"))

    @property
    def other_numbers(self) -> int:
        return sum(b.numel() for name in ("shift", "factors", "bias") if (b := self._buffers[name]) is not None)


def computed(
    patches: Patches, x: Float[Tensor, "..."], tensors: dict[str, Tensor | None], relu: bool = False, pool: int = 1
) -> Float[Tensor, "..."]:
    """The outputs of a hardened layer from its tensors; names as in `SumProductPlan`."""
    if patches.axes and x.dim() == patches.axes + 1:
        return computed(patches, x.unsqueeze(0), tensors, relu, pool).squeeze(0)
    gather, scale, spread = tensors["gather"], tensors["scale"], tensors["spread"]
    assert gather is not None
    assert scale is not None
    assert spread is not None
    y = affine(patches.gathered(x, gather), scale, tensors["shift"], patches.axes)
    y = patches.spread(y, spread, tuple(x.shape[x.dim() - patches.axes :]))
    y = affine(y, tensors["factors"], tensors["bias"], patches.axes)
    y = F.relu(y) if relu else y
    return F.max_pool1d(y, pool) if pool > 1 else y


def affine(
    y: Float[Tensor, "..."], scale: Float[Tensor, " c"] | None, shift: Float[Tensor, " c"] | None, axes: int
) -> Float[Tensor, "..."]:
    """`scale·y + shift` by channel, where each of them may be left out."""
    y = y if scale is None else y * scale.to(y.dtype).view(-1, *[1] * axes)
    return y if shift is None else y + shift.to(y.dtype).view(-1, *[1] * axes)
