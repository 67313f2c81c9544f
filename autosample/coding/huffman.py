"""Huffman codes for packed whole numbers, by zlib without its search for repetitions.

A coded tensor holds the bits of a number (one byte), how many numbers there are (eight bytes, the lowest first), and
raw deflate streams of bytes. Numbers of up to four bits share bytes, as many as fit: then a frequent number can cost
less than a bit. Larger ones have a stream for each of their bytes, the lowest first.
"""

import zlib

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from autosample.coding.packing import pack, unpack
from autosample.errors import DAMAGED, ArtifactError

_HEAD = 9
_MOST_BITS = 32
# Bytes that are unpacked at once; a multiple of eight, so packed pieces end at whole bytes.
_PIECE = 1 << 20


def encoded(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> UInt8[Tensor, "coded"] | None:
    """Packed numbers in Huffman codes; `None` where this would not be smaller, or there are no values.

    Args:
        packed: What `pack` made.
        bits: Bits of a number, 1 to 32.
        count: How many numbers.
    """
    if packed.is_meta or not count or not 1 <= bits <= _MOST_BITS:
        return None
    values = unpack(packed.cpu(), bits, count)
    data = bytearray([bits, *count.to_bytes(8, "little")])
    joint = _joined(values, bits)
    for place in range(0, bits, 8):
        engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
        data += engine.compress(((joint >> place) & 255).to(torch.uint8).numpy().tobytes()) + engine.flush()
    if len(data) >= len(packed) or not torch.equal(pack(values, bits), packed.cpu()):
        return None
    return torch.frombuffer(data, dtype=torch.uint8)


def decoded(coded: Tensor) -> UInt8[Tensor, "bytes"]:
    """The inverse of `encoded`. Memory stays within some times the size of the result, and that within eight times the
    size of `coded`.

    Raises:
        ArtifactError: The tensor is not a coded one.
    """
    if coded.dtype != torch.uint8 or coded.dim() != 1 or len(coded) < _HEAD:
        raise _damaged("is no row of bytes, or too short")
    data = coded.cpu().numpy().tobytes()
    bits, count, rest = data[0], int.from_bytes(data[1:_HEAD], "little"), data[_HEAD:]
    # every byte of a stream takes a bit at least
    if not 1 <= bits <= _MOST_BITS or not 1 <= count <= 8 * len(rest) * _shared(bits):
        raise _damaged(f"has {count} numbers of {bits} bits")
    size = -(-count // _shared(bits))
    streams = []
    for _ in range(0, bits, 8):
        part, rest = _inflated(rest, size)
        streams.append(part)
    if rest:
        raise _damaged("has bytes left")
    parts = zip(*(stream.split(_PIECE) for stream in streams), strict=True)
    each = _PIECE * _shared(bits)
    return torch.cat([_packed(part, bits, min(each, count - n * each)) for n, part in enumerate(parts)])


def _packed(streams: tuple[UInt8[Tensor, "m"], ...], bits: int, count: int) -> UInt8[Tensor, "bytes"]:
    """So many numbers, from their bytes in each stream."""
    joint = torch.zeros(len(streams[0]), dtype=torch.long)
    for place, stream in enumerate(streams):
        joint |= stream.long() << 8 * place
    shifts = torch.arange(_shared(bits)) * bits
    values = ((joint[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]
    if not torch.equal(_joined(values, bits), joint):
        raise _damaged(f"has numbers of more than {bits} bits")
    return pack(values, bits)


def _shared(bits: int) -> int:
    """How many numbers share a byte."""
    return max(8 // bits, 1)


def _joined(values: Int[Tensor, "n"], bits: int) -> Int[Tensor, "m"]:
    """The numbers that share a byte as one number; zeros fill the last byte."""
    share = _shared(bits)
    rows = torch.nn.functional.pad(values, (0, -len(values) % share)).view(-1, share)
    return (rows << torch.arange(share) * bits).sum(1)


def _inflated(data: bytes, count: int) -> tuple[UInt8[Tensor, "count"], bytes]:
    """The bytes of the first stream in `data`, and what follows it."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = engine.decompress(data, count)
        more = engine.decompress(engine.unconsumed_tail, 1)  # reads the end of the stream, if this is it
    except zlib.error as error:
        raise _damaged("is no deflate stream") from error
    if len(out) != count or more or not engine.eof:
        raise _damaged(f"must have {count} bytes in a stream")
    return torch.frombuffer(bytearray(out), dtype=torch.uint8), engine.unused_data


def _damaged(what: str) -> ArtifactError:
    return ArtifactError(f"a tensor in Huffman codes {what}: {DAMAGED}")
