"""The pictures of a set's two parts, found in folders, in tar files, in shards or by Hugging Face's package."""

import os
import re
import tarfile
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.data.dataset_factory import create_dataset
from timm.utils.misc import natural_key
from torch import Tensor

from autosample.data.base import require_folder
from autosample.data.files import is_file, is_folder, reason, shown
from autosample.data.folders import list_classes, list_images
from autosample.data.listing import scan
from autosample.data.pictures import Files, Packed, Read, Source
from autosample.data.shards import INDEX, Index, Shard, read_index, read_part
from autosample.errors import DataError, MissingExtra, one_line

#: What sets call their parts. timm knows the same names.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "eval", "evaluation"),
    "test": ("test", "testing"),
}
# the parts that training reads
_USED = {part: PARTS[part] for part in ("train", "val")}
# bytes of zeros at the end of a tar file
_TAR_END = 1024


class Parts(NamedTuple):
    """Names of the classes in timm's order, and the pictures for training and for validation."""

    names: tuple[str, ...]
    train: Source
    val: Source


def read_folders(root: Path, name: str = "", allow_outside: bool = False, skip: bool = False) -> Parts:
    """The pictures in `root/train/CLASS/*` and `root/val/CLASS/*`.

    timm's own reader would take all of `root` for a part that is missing, and the names of nested folders for classes.

    Raises:
        DataError: A part, a class or all pictures are missing, or a link leads outside.
    """
    layout = "ImageNet's layout train/CLASS/* and val/CLASS/*"
    train, val = (_found(root, names, "", layout, is_folder) for names in _USED.values())
    names = tuple(sorted(list_classes(train), key=natural_key))
    parts = [Files(*list_images(folder, names, root, allow_outside)) for folder in (train, val)]
    _require_each(val, names, parts[1].labels)
    return Parts(names, *parts)


def read_tars(root: Path, name: str = "tar", allow_outside: bool = False, skip: bool = False) -> Parts:
    """The pictures in `root/train.tar` and `root/val.tar`, which hold folders of classes, or tar files of classes.

    Raises:
        DataError: A file is missing or cut short, or the classes of both differ.
    """
    layout = "train.tar and val.tar"
    train, val = (_found(root, names, ".tar", layout, is_file) for names in _USED.values())
    known, first = _read_tar(train)
    found, second = _read_tar(val)
    if unknown := sorted(set(found) - set(known)):
        raise DataError(
            f"{shown(val)} has classes that {train.name} lacks: {_some(unknown)}; add them there or remove them"
        )
    _require_all(val, [one for one in known if one not in found])
    return Parts(known, first, second)


def read_hugging_face(root: Path, name: str, allow_outside: bool = False, skip: bool = False) -> Parts:
    """The parts `train` and `validation` of the set `hfds/NAME`, kept in `root`.

    Raises:
        MissingExtra: The package `datasets` is not installed.
        DataError: It cannot get or read the set.
    """
    if find_spec("datasets") is None:
        raise MissingExtra(f"{shown(name)} needs a package that is not installed, datasets: pip install datasets")
    try:
        sets: list[Any] = [create_dataset(name, root=str(root), split=split) for split in ("train", "validation")]
        readers = [one.reader for one in sets]
        names = tuple(sorted(readers[0].class_to_idx, key=readers[0].class_to_idx.__getitem__))
        parts = [Read(reader, _labels(reader.iter_targets())) for reader in readers]
    except Exception as error:  # the package raises many types, also of other packages
        raise DataError(
            f"{shown(name)} must have labelled pictures in train and validation, got {one_line(error)[:120]}: check "
            "the name, and the connection"
        ) from error
    return Parts(names, *parts)


def read_shards(root: Path, name: str = "wds", allow_outside: bool = False, skip: bool = False) -> Parts:
    """The pictures in `root/train-NUMBER.tar` and `root/val-NUMBER.tar`, in webdataset's layout.

    The index `_info.json` names the classes. Without it, classes have numbers, and all shards count that are there.

    Args:
        root, name, allow_outside: as for the other readers.
        skip: leave out pictures that are missing because a shard is cut short, and count them.

    Raises:
        DataError: A shard is missing or cut short, or labels do not fit the classes.
    """
    layout = "shards train-NUMBER.tar and val-NUMBER.tar"
    require_folder([root], layout)
    index = read_index(root)
    parts = []
    for part, names in _USED.items():
        shards = _listed(root, index, names)
        if not shards:
            raise DataError(
                f"{layout} were expected, got none of {part} in {shown(root)}: finish the download, or shard again"
            )
        paths, places, labels = read_part(root, part, shards, skip)
        parts.append(Packed(paths, places, torch.from_numpy(labels)))
    most = max(int(part.labels.max()) for part in parts)
    known = index.names if index and index.names else tuple(map(str, range(most + 1)))
    if most >= len(known):
        raise DataError(
            f"{shown(root / INDEX)} must name each class, got {len(known)} names and the number {most}: shard again"
        )
    _require_each(root, known, parts[1].labels)
    return Parts(known, *parts)


def _listed(root: Path, index: Index | None, names: tuple[str, ...]) -> list[Shard]:
    """The shards of the part with one of these names."""
    if index is not None:
        return next((index.parts[name] for name in names if name in index.parts), [])
    known = re.compile(rf"(.+-)?({'|'.join(names)})-\d+\.tar")
    return [Shard(entry.name) for entry in scan(root) if known.fullmatch(entry.name)]


#: How to read a set, by the beginning of its name.
READERS: dict[str, Callable[..., Parts]] = {
    "": read_folders,
    "tar": read_tars,
    "wds": read_shards,
    "hfds": read_hugging_face,
}


def check_name(name: str) -> None:
    """Raise `DataError` unless one of `READERS` reads a set of this name."""
    kind, _, rest = name.partition("/")
    if kind not in READERS or (kind == "hfds") != bool(rest):
        raise DataError(
            f'name must be "" (folders), "tar", "wds" (shards) or "hfds/NAME", got "{shown(name, 40)}": other readers '
            "of timm choose the order of pictures themselves, and a run could not go on within an epoch"
        )


def _found(root: Path, names: Iterable[str], suffix: str, layout: str, there: Callable[[Path], bool]) -> Path:
    """The first of these files or folders in `root` that there is."""
    require_folder([root], layout)
    candidates = [root / f"{name}{suffix}" for name in names]
    for path in candidates:
        if there(path):
            return path
    fix = "pass name=wds" if is_file(root / INDEX) else "finish the download, or rename it"
    raise DataError(
        f"{layout} was expected, got no {' or '.join(path.name for path in candidates)} in {shown(root)}: {fix}"
    )


def _read_tar(path: Path) -> tuple[tuple[str, ...], Packed]:
    try:
        with path.open("rb") as file:  # Python takes a file that is cut between two members for a whole one
            file.seek(-min(_TAR_END, path.stat().st_size), os.SEEK_END)
            if any(file.read()):
                raise tarfile.ReadError("its end is missing")
        # timm would keep what it finds in a pickle
        whole: Any = create_dataset("tar", root=str(path), search_split=False, cache_tarinfo=False)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{shown(path)}: not a readable tar file ({reason(error)}); make it again") from error
    except ValueError as error:  # timm counts on pictures
        raise DataError(f"{shown(path)} must have pictures in folders of classes, got none: make it again") from error
    reader = whole.reader
    names = tuple(reader.class_name_to_idx)
    if "" in names:
        raise DataError(f"{shown(path)} must have folders of classes, got pictures outside of them: make it again")
    found = [
        (
            f"{tar.name}/{one.path}" if tar else one.path,
            one.offset_data + (tar.offset_data if tar else 0),
            one.size,
        )
        for one, _, tar in reader.samples
    ]
    inner, starts, sizes = zip(*found, strict=True)
    places = np.stack([np.zeros(len(found), int), np.array(starts), np.array(sizes)], 1)
    return names, Packed([path], places, _labels(reader.targets), inner)


def _labels(targets: Iterable[Any]) -> Tensor:
    return torch.tensor([int(target) for target in targets])


def _require_each(part: Path, names: tuple[str, ...], labels: Tensor) -> None:
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    _require_all(part, [one for one, count in zip(names, counts, strict=True) if not count])


def _require_all(part: Path, missing: list[str]) -> None:
    if missing:
        raise DataError(
            f"{shown(part)} must have pictures of each class, got none of {len(missing)}, such as {_some(missing)}: "
            "finish the download, or remove these classes"
        )


def _some(names: list[str]) -> str:
    return ", ".join(shown(name, 20) for name in names[:3])
