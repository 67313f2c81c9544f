"""Numbers −1, 0 and 1: two quantisers of StrassenNets (Tschannen et al. 2018), and five entries packed in a byte."""

from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

#: How numbers become entries: at 0.7 times the mean size, with a scale (`rescaled`), or at 0.5 (`plain`).
Quantiser = Literal["rescaled", "plain"]
#: Entries in a byte: 3⁵ = 243 of its 256 values, 1.6 bits an entry.
IN_A_BYTE = 5
_VALUES = 3**IN_A_BYTE


def ternary(values: Float[Tensor, "*shape"], how: Quantiser) -> tuple[Float[Tensor, "*shape"], Float[Tensor, ""]]:
    """Entries `q` of −1, 0 and 1 and their scale `α`; `α·q` stands for the values.

    `q = sign(w)·1[|w| > Δ]`. `rescaled`: `Δ = 0.7·mean|w|` and `α = Σ w·q / Σ |q|`. `plain`: `Δ = 0.5` and `α = 1`.
    """
    wide = values.detach().float()
    limit = 0.7 * wide.abs().mean() if how == "rescaled" else torch.full((), 0.5, device=wide.device)
    entries = (wide > limit).float() - (wide < -limit).float()
    scale = torch.ones_like(limit)
    if how == "rescaled":
        count = entries.abs().sum()
        scale = torch.where(count > 0, (wide * entries).sum() / count.clamp_min(1), scale)
    return entries.to(values.dtype), scale.to(values.dtype)


def ternary_bytes(count: int) -> int:
    """Bytes of so many packed entries."""
    return -(-count // IN_A_BYTE)


def pack_ternary(entries: Int[Tensor, "*shape"]) -> UInt8[Tensor, "bytes"]:
    """Entries −1, 0 and 1 in `ternary_bytes(entries.numel())` bytes: digits of base 3, the lowest first."""
    size = ternary_bytes(entries.numel())
    if entries.is_meta:
        return torch.empty(size, dtype=torch.uint8, device="meta")
    digits = torch.zeros(size * IN_A_BYTE, dtype=torch.uint8)
    digits[: entries.numel()] = (entries.reshape(-1).cpu() + 1).to(torch.uint8)
    return (digits.view(size, IN_A_BYTE) * _powers(torch.uint8)[:-1]).sum(1, dtype=torch.uint8)


def unpack_ternary(packed: UInt8[Tensor, "bytes"], count: int) -> Float[Tensor, "count"]:
    """The inverse of `pack_ternary`, flat and float32, in few standard operators: exported graphs hold them too."""
    # floor(b / 3^i) is exact in float32: quotients are whole or at least 1/81 away from a whole number
    above = (packed.float()[:, None] / _powers(torch.float32).to(packed.device)).floor()
    return (above[:, :-1] - 3 * above[:, 1:]).reshape(-1)[:count] - 1


def is_ternary(packed: UInt8[Tensor, "bytes"]) -> bool:
    """Whether bytes can be unpacked: each must be below 243."""
    return not packed.numel() or int(packed.max()) < _VALUES


def _powers(dtype: torch.dtype) -> Tensor:
    """3⁰ … 3⁵."""
    return torch.tensor([3**i for i in range(IN_A_BYTE + 1)], dtype=dtype)
