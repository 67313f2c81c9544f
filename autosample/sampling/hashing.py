"""Pseudo-random offsets and signs that any machine regenerates from a seed, instead of storing them.

The hash is simple tabulation with a multiplicative finish, `h(n, g) = ((T[n] xor U[g])·C mod 2^32)`, on integers only.
So the same seed gives the same layer with every torch version, device and precision.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: bits of a stored seed
SEED_BITS = 64
_MASK = (1 << 32) - 1
_FINISH = 0x2C1B3C6D  # odd and below 2^31: the product of two 32-bit numbers stays inside int64


def hash_words(seed: Int[Tensor, ""], stream: int, count: int) -> Int[Tensor, "count"]:
    """`count` pseudo-random 32-bit words (in int64) of one stream of a seed: the finaliser of MurmurHash3."""
    words = torch.arange(1, count + 1, device=seed.device) * 0x3C6EF372
    words = (words + seed * 0x1B873593 + stream * 0x5BD1E995) & _MASK
    for shift, factor in ((16, 0x45D9F3B7), (15, 0x2C1B3C6D), (16, 1)):
        words = ((words ^ (words >> shift)) * factor) & _MASK
    return words


def hash_table(seed: Int[Tensor, ""], stream: int, filters: int, windows: int) -> Int[Tensor, "filters windows"]:
    """32-bit words `h[n, g]` (in int64) of two streams of a seed."""
    rows, columns = hash_words(seed, stream, filters), hash_words(seed, stream + 1, windows)
    table = rows[:, None] ^ columns
    return table.mul_(_FINISH).bitwise_and_(_MASK)


def random_offsets(seed: Int[Tensor, ""], filters: int, windows: int, choices: int) -> Int[Tensor, "filters windows"]:
    """Offsets uniform in `0 … choices − 1` (HashedNets' `h`, section 4.1)."""
    return hash_table(seed, 0, filters, windows).mul_(choices).bitwise_right_shift_(32)


def random_signs(
    seed: Int[Tensor, ""], filters: int, windows: int, dtype: torch.dtype
) -> Float[Tensor, "filters windows"]:
    """Signs `±1` (HashedNets' `ξ`), independent of the offsets of the same seed."""
    return (hash_table(seed, 2, filters, windows) >> 31).to(dtype).mul_(2).sub_(1)


def random_columns(seed: Int[Tensor, ""], windows: int, columns: int) -> Int[Tensor, "windows columns"]:
    """A permutation of `0 … columns − 1` for each window."""
    return hash_table(seed, 4, windows, columns).argsort(dim=1, stable=True)


def layer_seed(seed: int, name: str) -> int:
    """A seed for the layer called `name`, so layers of equal shape get different samples."""
    mixed = seed & _MASK
    for byte in name.encode():
        mixed = ((mixed ^ byte) * 0x01000193) & _MASK  # FNV-1a
    return mixed >> 1
