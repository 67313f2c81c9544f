"""Integers packed at the bits they need, such as learned offsets on disk."""

from collections.abc import Iterator

import torch
from jaxtyping import Int, UInt8
from torch import Tensor


def bits_for(choices: int) -> int:
    """Bits that distinguish `choices` values; 0 for a single one."""
    return max(choices - 1, 0).bit_length()


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` integers of `bits` bits each, packed without gaps."""
    return -(-count * bits // 8)


def pack(values: Int[Tensor, "*shape"], bits: int) -> UInt8[Tensor, "bytes"]:
    """Pack non-negative integers, least significant bit first, into `packed_bytes(values.numel(), bits)` bytes."""
    size = packed_bytes(values.numel(), bits)
    if values.is_meta:
        return torch.empty(size, dtype=torch.uint8, device="meta")
    flat = values.reshape(-1).cpu()
    if bits == 8:
        return flat.to(torch.uint8)
    groups = torch.nn.functional.pad(flat.long(), (0, -len(flat) % 8)).view(-1, 8)
    out = torch.zeros(len(groups), bits, dtype=torch.uint8)
    for value, byte, shift in _overlaps(bits):
        part = groups[:, value] << shift if shift >= 0 else groups[:, value] >> -shift
        out[:, byte] |= (part & 0xFF).to(torch.uint8)
    return out.view(-1)[:size].clone()


def unpack(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> Int[Tensor, "count"]:
    """The inverse of `pack`, as int64."""
    if bits == 8:
        return packed[:count].long()
    rows = -(-count // 8)
    stream = torch.nn.functional.pad(packed, (0, rows * bits - len(packed))).view(rows, bits)
    out = torch.zeros(rows, 8, dtype=torch.int64)
    for value, byte, shift in _overlaps(bits):
        part = stream[:, byte].long()
        out[:, value] |= part >> shift if shift >= 0 else part << -shift
    return out.bitwise_and_((1 << bits) - 1).view(-1)[:count]


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """For each of eight values: the bytes (of `bits` in total) that hold it, and its shift to the left in each."""
    for value in range(8):
        first, last = value * bits, (value + 1) * bits - 1
        yield from ((value, byte, first - 8 * byte) for byte in range(first // 8, last // 8 + 1) if bits)
