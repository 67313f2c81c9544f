"""Integers packed at the bits they need, such as learned offsets on disk."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor


def bits_for(choices: int) -> int:
    """Bits that distinguish `choices` values; 0 for a single one."""
    return max(choices - 1, 0).bit_length()


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` integers of `bits` bits each, packed without gaps."""
    return -(-count * bits // 8)


def pack(values: Int[Tensor, "*shape"], bits: int) -> UInt8[Tensor, "bytes"]:
    """Pack non-negative integers, least significant bit first, into `packed_bytes(values.numel(), bits)` bytes."""
    if bits == 8 and not values.is_meta:
        return values.reshape(-1).cpu().to(torch.uint8)
    return pack_bits(to_bits(values, bits))


def unpack(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> Int[Tensor, "count"]:
    """The inverse of `pack`, as int64."""
    if bits == 8:
        return packed[:count].long()
    rows, number = -(-count // 8), torch.int32 if bits < 32 else torch.int64
    stream = torch.nn.functional.pad(packed, (0, rows * bits - len(packed))).view(rows, bits).t().to(number)
    stream = stream.contiguous()  # each byte of a group in a row of its own: tables can hold millions of numbers
    out = torch.zeros(8, rows, dtype=number, device=packed.device)
    for value, byte, shift in _overlaps(bits):
        out[value] |= stream[byte] >> shift if shift >= 0 else stream[byte] << -shift
    return out.bitwise_and_((1 << bits) - 1).t().reshape(-1)[:count].long()


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """For each of eight values: the bytes (of `bits` in total) that hold it, and its shift to the left in each."""
    for value in range(8):
        first, last = value * bits, (value + 1) * bits - 1
        yield from ((value, byte, first - 8 * byte) for byte in range(first // 8, last // 8 + 1) if bits)


def pack_bits(bits: Bool[Tensor, "*shape width"]) -> UInt8[Tensor, "bytes"]:
    """Like `pack`, for integers given as bits."""
    if bits.is_meta:
        return torch.empty(-(-bits.numel() // 8), dtype=torch.uint8, device="meta")
    return torch.from_numpy(np.packbits(bits.cpu().numpy().reshape(-1), bitorder="little"))


def unpack_bits(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> Bool[Tensor, "count bits"]:
    """The inverse of `pack_bits`."""
    if packed.is_meta:
        return torch.empty(count, bits, dtype=torch.bool, device="meta")
    flat = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little")
    return torch.from_numpy(flat).view(torch.bool).view(count, bits)


def to_bits(values: Int[Tensor, "*shape"], width: int) -> Bool[Tensor, "*shape width"]:
    """The lowest `width` bits of whole numbers, the lowest first."""
    if values.is_meta:
        return torch.empty(*values.shape, width, dtype=torch.bool, device="meta")
    # with NumPy, since tables can hold millions of numbers: it is five times as fast as shifts
    parts = values.cpu().numpy().astype("<i4" if width < 32 else "<i8")[..., None].view(np.uint8)
    bits = np.unpackbits(parts[..., : -(-width // 8)], axis=-1, count=width, bitorder="little")
    return torch.from_numpy(bits).view(torch.bool).to(values.device)


def from_bits(bits: Bool[Tensor, "*shape width"]) -> Int[Tensor, "*shape"]:
    """The inverse of `to_bits`, as int64."""
    width = bits.shape[-1]
    if bits.dim() == 1 or width in (0, 64):  # a single number: few operators, since a compiler sees them in every layer
        return (bits.long() << torch.arange(width, device=bits.device)).sum(-1)
    total = bits[..., -1].to(torch.uint8 if width <= 8 else torch.int32 if width < 32 else torch.int64)
    for place in range(width - 2, -1, -1):  # a table: seven times as fast
        total = torch.add(bits[..., place], total, alpha=2)
    return total.long()
