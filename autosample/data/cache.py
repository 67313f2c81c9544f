"""A cache of decoded data in one `.npy` file. Only the first run decodes."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from autosample.system.files import sweep_partials, whole, write_json
from autosample.system.progress import tracked

FOLDER = ".autosample-cache"
_VERSION = 2  # 1 had no digest
_log = logging.getLogger(__name__)


def cache_folder(root: Path, cache_dir: str | None) -> Path | None:
    """The folder for the cache of the data in `root`.

    If `cache_dir` is given, it is a folder in there that belongs to `root` only. Otherwise it is `.autosample-cache`
    in `root`, or None if `root` is not writable.
    """
    if cache_dir is not None:
        place = root.expanduser().resolve()
        return Path(cache_dir).expanduser() / f"{place.name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"
    return root / FOLDER if os.access(root, os.W_OK) else None


def file_stamp(files: Iterable[Path], root: Path) -> str:
    """A digest of the files' names (relative to `root`), sizes and times of change. It differs if a file changed."""
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(os.fsencode(f"{os.path.relpath(file, root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return digest.hexdigest()


def cached_array(
    folder: Path | None,
    name: str,
    key: dict[str, Any],
    shape: Sequence[int],
    dtype: str,
    fill: Callable[[np.ndarray], None],
) -> np.ndarray:
    """The array that `fill` makes, read from the cache if it is there.

    The cache is `name.npy`, mapped into memory copy-on-write, with an index `name.json` beside it that holds a digest.
    A cache that is damaged or has another `key` is rebuilt. If the folder cannot be written, there is no
    cache. Nothing is pickled.

    Args:
        folder: folder of the two files; None for no cache.
        name: file name without suffix.
        key: everything that the content depends on, as JSON values.
        shape, dtype: shape and type of the array.
        fill: writes the content into an array of zeros.
    """
    index = {"version": _VERSION, "key": key, "shape": list(shape), "dtype": dtype}
    if folder is not None:
        found = _read(folder, name, index)
        if found is not None:
            return found
    array = np.zeros(tuple(shape), dtype=dtype)
    fill(array)
    if folder is not None:
        try:
            _write(folder, name, index, array)
        except OSError as error:
            _log.info("no cache of decoded data in %s: %s", folder, error)
    return array


def _read(folder: Path, name: str, index: dict[str, Any]) -> np.ndarray | None:
    try:
        known = json.loads((folder / f"{name}.json").read_text("utf-8"))
        if not isinstance(known, dict) or {key: known.get(key) for key in index} != index:
            return None
        # copy-on-write: torch needs writable memory, but the file must not change
        array = np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError, RecursionError):
        return None
    same = isinstance(array, np.ndarray) and list(array.shape) == index["shape"] and array.dtype == index["dtype"]
    return array if same and array.flags.c_contiguous and known.get("sha256") == _digest(array) else None


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.data).hexdigest()


def _write(folder: Path, name: str, index: dict[str, Any], array: np.ndarray) -> None:
    """Write the array, then the index, each atomically."""
    sweep_partials(folder)  # of runs that were killed
    # remove an old index first: it must not stand beside the new array
    (folder / f"{name}.json").unlink(missing_ok=True)
    with whole(folder / f"{name}.npy") as partial:
        np.save(partial, array, allow_pickle=False)
    write_json(folder / f"{name}.json", index | {"sha256": _digest(array)})


def in_threads(work: Callable[[int], None], count: int, label: str) -> None:
    """Call `work(0)` .. `work(count - 1)` in threads, with a progress bar on stderr if it takes more than 2 s.

    Decoders release the interpreter lock, so threads are enough. The first error stops all.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for _ in tracked(pool.map(work, range(count)), count, label):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
