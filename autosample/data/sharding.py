"""Writing of shards: what a folder of classes or a CSV table names, unchanged, in webdataset's layout."""

import io
import re
import tarfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from timm.utils.misc import natural_key

from autosample.data.base import require_at_least, require_folder
from autosample.data.cache import in_threads
from autosample.data.clips import SOUNDS, check_sound
from autosample.data.files import DEFAULT, Limits, is_file, is_folder, reason, shown
from autosample.data.folders import list_classes, list_images
from autosample.data.image_files import open_image
from autosample.data.sets.audio_csv import AudioCSV
from autosample.data.shards import (
    INDEX,
    LABEL,
    NUMBER,
    SIZE,
    SUFFIXES,
    Index,
    Shard,
    read_index,
    scan_shard,
    write_index,
)
from autosample.data.timm_readers import PARTS
from autosample.errors import DataError
from autosample.system.files import sweep_partials, whole

# readers of webdataset know the short suffix only
_SHORT = {".jpeg": ".jpg"}
_SEEDS = 2**32  # NumPy has as many


class Example(NamedTuple):
    """A file of a set: its number in its part, its path and its label."""

    number: int
    path: str
    label: int


def write_shards(
    source: Path,
    out: Path,
    *,
    size: int = 1000,
    seed: int = 0,
    skip: bool = False,
    fold: int | None = None,
    allow_outside: bool = False,
    limits: Limits = DEFAULT,
) -> tuple[Index, list[str]]:
    """Write a set as shards `out/PART-NUMBER.tar`, and then their index.

    Each file is decoded once as a check, and copied as it is. Its key is its number in the order of its part. Shards
    that are there already are kept if they hold these files; a shard that is begun has another name.

    Args:
        source: a folder `CLASS/*`, or one with parts `train/CLASS/*`, `val/CLASS/*`, …, of pictures or sounds; or a CSV
            table as `AudioCSV` reads it, also of pictures. Without a validation part, its test part is called `val`.
        out: folder for the shards.
        size: files of a shard.
        seed: seed of the order of files, at least 0; it decides which files are in a shard together.
        skip: leave out files that cannot be read.
        fold: the test fold of a table with folds.
        allow_outside: follow links and paths that leave the set.
        limits: what a file may hold.

    Returns:
        The index, and what is wrong with each file left out.

    Raises:
        DataError: The set or a file of it cannot be read, `out` has other shards, or it cannot be written.
    """
    require_at_least("size", size, 1)
    require_at_least("seed", seed, 0)
    names, parts = list_source(source, fold, allow_outside)
    plan = _plan(parts, size, seed)
    todo = list(plan.items())
    shards: dict[str, Shard] = {}
    bad: list[str] = []

    def one(i: int) -> None:
        name, examples = todo[i]
        said = _lacking(out / name, examples, limits)
        said = _write(out / name, examples, limits, skip) if said is None else said
        if said and not skip:
            raise DataError(said[0])
        bad.extend(said)
        shards[name] = _as_written(out / name, len(examples) - len(said))

    try:
        _prepare(out, plan)
        in_threads(one, len(todo), "writing shards")
        index = Index(names, {part: [shards[n] for n in plan if n.startswith(f"{part}-")] for part in parts})
        write_index(out, index)
    except OSError as error:
        raise DataError(f"{shown(out)} must be writable, got {reason(error)}: choose another folder") from error
    return index, bad


def check_shards(folder: Path) -> Index:
    """Compare the shards in a folder with their index: their sizes, and the number of examples in them.

    Raises:
        DataError: There is no index, or a shard is not as it says.
    """
    index = read_index(folder)
    if index is None:
        raise DataError(
            f"{shown(folder)} must have an index {INDEX}, which is written last, got none: run autosample shard SRC OUT"
        )
    shards, bad = [shard for part in index.parts.values() for shard in part], []

    def one(i: int) -> None:
        shard, path = shards[i], folder / shards[i].name
        size = path.stat().st_size if is_file(path) else 0
        rows, intact = scan_shard(path) if size else ((), False)
        if not intact or len(rows) != shard.count or shard.size not in (None, size):
            wanted = f"{shard.count:,} examples" + (f" in {shard.size:,} bytes" if shard.size is not None else "")
            bad.append(f"{shown(shard.name, 40)} must have {wanted}, got {len(rows):,} in {size:,}")

    in_threads(one, len(shards), "checking shards")
    if bad:
        raise DataError(
            f"shards must be as in {INDEX}, got {len(bad)} that are not: {min(bad)}: copy them again, or run "
            "autosample shard SRC OUT again"
        )
    return index


def list_source(
    source: Path, fold: int | None = None, allow_outside: bool = False
) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """Names of the classes, and the files of each part in the order in which the data sets number them."""
    if is_file(source):
        clips = AudioCSV(str(source.parent), source.name, fold=fold, allow_outside=allow_outside).clips
        val, test = (clips.test, []) if clips.val is None else (clips.val, clips.test)
        rows = {"train": clips.train, "val": val, "test": test}
        labels = [label for label in clips.labels if isinstance(label, int)]  # without a separator, all are numbers
        listed = {part: [(str(clips.paths[i]), labels[i]) for i in rows[part]] for part in rows if rows[part]}
        names = clips.class_names
    else:
        require_folder([source], "a folder with one folder per class, or a CSV table,")
        found = {part: [source / name for name in names if is_folder(source / name)] for part, names in PARTS.items()}
        folders = {part: places[0] for part, places in found.items() if places} or {"train": source}
        if "train" not in folders:
            raise DataError(
                f"{shown(source)} must have a folder train beside {', '.join(folders)}, got none: finish the download"
            )
        names = tuple(sorted(list_classes(folders["train"]), key=natural_key))
        listed = {}
        for part, folder in folders.items():
            paths, labels = list_images(folder, names, source, allow_outside, SUFFIXES)
            listed[part] = list(zip(paths, labels.tolist(), strict=True))
    return names, {part: [Example(i, *one) for i, one in enumerate(files)] for part, files in listed.items()}


def _plan(parts: dict[str, list[Example]], size: int, seed: int) -> dict[str, list[Example]]:
    """The files of each shard."""
    plan = {}
    for part, examples in parts.items():
        # NumPy never changes the numbers of RandomState
        order = np.random.RandomState(seed % _SEEDS).permutation(len(examples)).tolist()
        for i, start in enumerate(range(0, len(order), size)):
            plan[f"{part}-{i:06d}.tar"] = [examples[place] for place in order[start : start + size]]
    return plan


def _prepare(out: Path, plan: dict[str, list[Example]]) -> None:
    """Make the folder. An index beside shards that are written anew would be wrong."""
    out.mkdir(parents=True, exist_ok=True)
    known = re.compile(rf"({'|'.join(PARTS)})-\d+\.tar")
    others = sorted(path.name for path in out.iterdir() if known.fullmatch(path.name) and path.name not in plan)
    if others:
        raise DataError(
            f"{shown(out)} must be free of other shards, got {len(others)}, such as {others[0]}: choose another "
            "folder, or remove them"
        )
    sweep_partials(out)
    (out / INDEX).unlink(missing_ok=True)


def _lacking(path: Path, examples: list[Example], limits: Limits) -> list[str] | None:
    """What is wrong with the files that a finished shard lacks; None if it must be written."""
    if not is_file(path):
        return None
    try:
        rows, intact = scan_shard(path)
    except DataError:
        return None
    kept = {int(row[NUMBER]): (int(row[SIZE]), int(row[LABEL])) for row in rows}
    if not intact or not kept.keys() <= {one.number for one in examples}:
        return None
    bad = []
    for one in examples:
        if one.number in kept:
            if kept[one.number] != (Path(one.path).stat().st_size, one.label):
                return None
            continue
        try:
            _read(one.path, limits)
        except DataError as error:
            bad.append(str(error))
        else:
            return None  # it has been mended
    return bad


def _write(path: Path, examples: list[Example], limits: Limits, skip: bool) -> list[str]:
    """Write a shard. Returns what is wrong with the files left out."""
    bad = []
    with whole(path) as begun, tarfile.open(begun, "w") as tar:
        for one in examples:
            try:
                data = _read(one.path, limits)
            except DataError as error:
                if not skip:
                    raise
                bad.append(str(error))
                continue
            suffix = Path(one.path).suffix.lower()
            for name, content in ((_SHORT.get(suffix, suffix), data), (".cls", b"%d" % one.label)):
                info = tarfile.TarInfo(f"{one.number:08d}{name}")  # without times and owners: the same bytes again
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return bad


def _read(path: str, limits: Limits) -> bytes:
    """The bytes of a file that can be decoded."""
    check = check_sound if path.lower().endswith(SOUNDS) else partial(open_image, upright=False)
    check(Path(path), limits=limits)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{shown(path)}: not readable ({reason(error)}): check the disk") from error


def _as_written(path: Path, count: int) -> Shard:
    rows, intact = scan_shard(path)
    if not intact or len(rows) != count:
        raise DataError(
            f"{shown(path)}: a shard must be as it was written, got {len(rows)} of {count} files back: check the disk"
        )
    return Shard(path.name, count, path.stat().st_size)
