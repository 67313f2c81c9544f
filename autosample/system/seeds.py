"""Seeds made of several numbers."""

import numpy as np


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several non-negative numbers, such as (seed, epoch, batch, rank).

    Unlike a sum, it differs between (0, 1) and (1, 0). `SeedSequence` is the same in all versions of NumPy.
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1
