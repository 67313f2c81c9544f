"""Shards: tar files in webdataset's layout, `KEY.jpg` beside `KEY.cls`, and the index beside them, which timm knows."""

import json
import os
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from autosample.data.cache import cache_folder, cached_array, file_stamp
from autosample.data.clips import SOUNDS
from autosample.data.files import is_file, reason, shown
from autosample.errors import DataError
from autosample.system.files import write_json
from autosample.system.progress import tracked
from autosample.system.warning import warn

#: timm's name of the index
INDEX = "_info.json"
#: what the files of a set may be, besides their classes
SUFFIXES = (*IMG_EXTENSIONS, *SOUNDS)
#: columns of the table that `scan_shard` makes
NUMBER, START, SIZE, LABEL = range(4)
_BLOCK = 512  # bytes; a tar file consists of such blocks, and a block of zeros is its end
_DIGITS = 18  # of a number that fits into 64 bits


class Shard(NamedTuple):
    """A shard as the index has it.

    Attributes:
        name: its file name.
        count: number of examples, or None if no index says it.
        size: bytes of the file, or None if no index says it.
    """

    name: str
    count: int | None = None
    size: int | None = None


class Index(NamedTuple):
    """What the index holds: the names of the classes, in the order of their numbers, and the shards of each part."""

    names: tuple[str, ...]
    parts: dict[str, list[Shard]]


def write_index(folder: Path, index: Index) -> None:
    """Write the index of the shards in a folder."""
    splits = {}
    for part, shards in index.parts.items():
        files, counts, sizes = zip(*shards, strict=True)
        lists = {"filenames": files, "shard_lengths": counts, "bytes": sizes}
        splits[part] = {"name": part, "num_samples": sum(counts), **lists}
    write_json(folder / INDEX, {"classes": index.names, "splits": splits})


def read_index(folder: Path) -> Index | None:
    """The index of the shards in a folder, or None if there is none. Those of timm's sets lack classes and bytes.

    Raises:
        DataError: It cannot be read, or names files in other folders.
    """
    path = folder / INDEX
    if not is_file(path):
        return None
    try:
        found, parts = json.loads(path.read_text("utf-8")), {}
        for part, split in found["splits"].items():
            files, counts = split["filenames"], map(int, split["shard_lengths"])
            if any(Path(name).name != name for name in files):
                raise ValueError("names must be of files beside it")
            sizes = map(int, split["bytes"]) if "bytes" in split else [None] * len(files)
            parts[part] = [Shard(*one) for one in zip(files, counts, sizes, strict=True)]
        return Index(tuple(map(str, found.get("classes", ()))), parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{shown(path)}: not a readable index of shards ({reason(error)}): shard again, or remove it"
        ) from error


def scan_shard(path: Path) -> tuple[np.ndarray, bool]:
    """Where the examples of a shard are, and whether it is whole. Only headers and classes are read.

    Returns:
        A table (n, 4) int64 in the order of the shard. The columns are `NUMBER` (the key, -1 if that is not a number),
        `START` and `SIZE` of the picture or sound [bytes], and `LABEL`. An example that is cut off is not in it.

    Raises:
        DataError: The file cannot be read, or an example has no class.
    """
    files: dict[str, tuple[int, int]] = {}
    labels: dict[str, bytes] = {}
    try:
        with path.open("rb") as file:
            length, end = file.seek(0, os.SEEK_END), 0
            file.seek(0)
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for one in tar:
                        if not 0 <= one.size <= length - one.offset_data:  # below zero, it would lead back
                            break
                        end = one.offset_data + -(-one.size // _BLOCK) * _BLOCK
                        key, suffix = _split(one.name)
                        if one.isfile() and suffix == ".cls":
                            file.seek(one.offset_data)
                            labels[key] = file.read(min(one.size, _DIGITS))
                        elif one.isfile() and suffix in SUFFIXES:
                            files[key] = (one.offset_data, one.size)
            except (tarfile.TarError, ValueError, EOFError):
                pass  # what follows is cut off
            # Python takes a file that is cut between two members, or damaged there, for a whole one
            file.seek(end)
            whole = file.read(_BLOCK) == bytes(_BLOCK)
    except OSError as error:
        raise DataError(f"{shown(path)}: not readable ({reason(error)}): check the disk") from error
    return _table(path, files, labels, whole), whole


def _split(name: str) -> tuple[str, str]:
    """Key and suffix of a file in a shard: as webdataset has it, the name ends at its first dot."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return folder + slash + stem, dot + suffix.lower()


def _table(path: Path, files: dict[str, tuple[int, int]], labels: dict[str, bytes], whole: bool) -> np.ndarray:
    rows = []
    for key, place in files.items():
        text = labels.get(key)
        if text is None and not whole:
            continue
        if text is None or not text.strip().isdigit():
            raise DataError(
                f"{shown(path)}: each example must have the number of its class in KEY.cls, got none for "
                f"{shown(key, 40)}: make the shard again"
            )
        number = int(key) if key.isascii() and key.isdigit() and len(key) <= _DIGITS else -1
        rows.append((number, *place, int(text)))
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def read_part(root: Path, part: str, shards: Sequence[Shard], skip: bool) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Where the examples of a part are. They come in the order of their numbers, which is that of their folder.

    Args:
        root: folder of the shards; the table is cached there.
        part: name of the part, for the cache.
        shards: its shards.
        skip: leave out examples that are cut off, with a warning, instead of raising an error.

    Returns:
        The files; for each example the number of its file, its start and its size [bytes], (N, 3) int64; labels (N,).

    Raises:
        DataError: A shard is missing or cut short, or no example is left.
    """
    paths = [path for path in (root / shard.name for shard in shards) if is_file(path)]
    counts, rows = _located(root, part, paths) if paths else (np.zeros((0, 2), int), np.zeros((0, 4), int))
    found, bad, lost = {path.name: count for path, count in zip(paths, counts.tolist(), strict=True)}, [], 0
    for shard in shards:
        got, whole = found.get(shard.name, (0, 0))
        if not whole or shard.count not in (None, got):
            of = "" if shard.count is None else f" of {shard.count}"
            bad.append(f"{shown(root / shard.name)}: a shard must be whole, got {got}{of} examples")
            lost += max(0, (shard.count or got) - got)
    if bad and (not skip or not len(rows)):
        raise DataError(f"{bad[0]}: finish the download or make it again, or pass on_bad=skip")
    if not len(rows):
        raise DataError(f"{shown(root)} must have shards with examples of {part}, got none: make them again")
    if bad:
        left = "unknown" if any(shard.count is None for shard in shards) else lost
        warn(f"shards that are missing or cut short: {len(bad)}; examples left out: {left}; the first: {bad[0]}")
    order = np.argsort(rows[:, NUMBER], kind="stable")
    places = np.stack([np.repeat(np.arange(len(paths)), counts[:, 0]), rows[:, START], rows[:, SIZE]], 1)
    return paths, places[order], rows[order, LABEL]


def _located(root: Path, part: str, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Number of examples of each shard and whether it is whole, (n, 2), and the tables of all, (N, 4); cached."""
    scanned = cache(scan_shard)
    folder, key = cache_folder(root, None), {"files": file_stamp(paths, root)}

    def count(array: np.ndarray) -> None:
        for i, path in enumerate(tracked(paths, len(paths), f"reading headers of {part}")):
            table, whole = scanned(path)
            array[i] = len(table), whole

    def fill(array: np.ndarray) -> None:
        np.concatenate([scanned(path)[0] for path in paths], out=array)

    counts = cached_array(folder, f"shards-{part}-counts", key, (len(paths), 2), "int64", count)
    return counts, cached_array(folder, f"shards-{part}", key, (int(counts[:, 0].sum()), 4), "int64", fill)
