"""Integers at the bits they need: what learned positions weigh on disk."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor


def bits_for(choices: int) -> int:
    """Bits that tell `choices` values apart; none for a single one."""
    return max(choices - 1, 0).bit_length()


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` integers of `bits` bits each, packed without gaps."""
    return -(-count * bits // 8)


def pack(values: Int[Tensor, "*shape"], bits: int) -> UInt8[Tensor, "bytes"]:
    """Pack non-negative integers, least significant bit first, into `packed_bytes(values.numel(), bits)` bytes."""
    if values.is_meta:
        return torch.empty(packed_bytes(values.numel(), bits), dtype=torch.uint8, device="meta")
    flat = values.reshape(-1, 1).long().cpu()
    stream = ((flat >> torch.arange(bits)) & 1).reshape(-1)
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (stream << torch.arange(8)).sum(1).to(torch.uint8)


def unpack(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> Int[Tensor, "count"]:
    """The inverse of `pack`, as int64."""
    # shifts by plain numbers: exporters know no others
    stream = torch.stack([packed.long() >> i for i in range(8)], 1) & 1
    values = stream.reshape(-1)[: count * bits].view(count, bits)
    return sum((values[:, i] << i for i in range(bits)), torch.zeros(count, dtype=torch.long))
