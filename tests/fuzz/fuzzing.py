"""What all fuzz tests share: how many cases, from which seeds, and how bytes, numbers and lists are damaged."""

import os
import random
from collections.abc import Iterator
from typing import Any

#: number of cases of each test
CASES = int(os.environ.get("AUTOSAMPLE_FUZZ_CASES", "200"))
#: number of the first case: every case is the same in each run
FIRST = int(os.environ.get("AUTOSAMPLE_FUZZ_FIRST", "0"))

NUMBERS = (-1, 0, 1, 2, 3, 7, 8, 16, 255, 2**12, 2**16, 2**24 - 1, 2**24, 2**31, 2**32 + 1, 2**40, 2**62, -(2**63))


def numbered() -> Iterator[tuple[int, random.Random]]:
    """The number of each case, and its source of chance."""
    for case in range(FIRST, FIRST + CASES):
        yield case, random.Random(case)


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few flipped, changed, missing, doubled or foreign parts."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randrange(len(out) + 1), rng.choice((1, 1, 2, 8, 64, 500))
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + size] = rng.randbytes(min(size, len(out) - at))
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = rng.randbytes(size)
        elif kind == 4:
            other = rng.randrange(len(out) + 1)
            out[at:at] = out[other : other + size]
        else:
            del out[at:]
    return bytes(out)


def damaged_numbers(numbers: list[int], rng: random.Random) -> list[int]:
    """A list of whole numbers with a few changed, missing, doubled or swapped ones; all fit into 64 bits."""
    out = list(numbers)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, kind = rng.randrange(len(out)) if out else 0, rng.randrange(8)
        if kind < 4 and out:
            old = out[at]
            near = (old + 1, old - 1, 2 * old, -old, old + rng.randrange(64))
            out[at] = max(-(2**63), min(2**63 - 1, rng.choice((rng.choice(NUMBERS), rng.choice(near)))))
        elif kind == 4:
            del out[at : at + rng.choice((1, 2, 5, len(out)))]
        elif kind == 5:
            out[at:at] = [rng.choice(NUMBERS) for _ in range(rng.choice((1, 4)))]
        elif kind == 6:
            out[at:at] = out[at : at + rng.choice((1, 4, 5))]
        elif out:
            other = rng.randrange(len(out))
            out[at], out[other] = out[other], out[at]
    return out


def places_in(data: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values in plain data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path] * bool(path) + [place for key, value in items for place in places_in(value, (*path, key))]


def put(data: Any, path: tuple, value: Any) -> None:
    """Replace the value at a path."""
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


def taken(data: Any, path: tuple) -> Any:
    """The value at a path."""
    for key in path:
        data = data[key]
    return data
