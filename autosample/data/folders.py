"""Folders of images in ImageNet's layout: one folder per class."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from autosample.data.base import require_folder
from autosample.data.cache import cached_array, file_stamp, in_threads
from autosample.data.files import DEFAULT, Limits, shown
from autosample.data.image_files import open_image
from autosample.data.listing import Listing, scan
from autosample.errors import DataError


def list_classes(folder: Path) -> tuple[str, ...]:
    """Names of the class folders in `folder`, sorted, without hidden folders.

    Raises:
        DataError: `folder` is missing or unreadable, contains no folders, or a name is not UTF-8.
    """
    require_folder([folder], "a folder with one folder of images per class")
    names = tuple(entry.name for entry in scan(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(
            f"{shown(folder)} must have one folder of images per class, got none: put the images into folders"
        )
    for name in names:  # files may have such names, but names of classes are saved and printed
        if name.encode(errors="replace").decode() != name:
            raise DataError(f"a class folder must have a name in UTF-8, got {shown(folder / name)}: rename it")
    return names


def list_images(
    folder: Path,
    class_names: tuple[str, ...],
    root: Path | None = None,
    allow_outside: bool = False,
    suffixes: tuple[str, ...] = IMG_EXTENSIONS,
) -> tuple[list[str], Tensor]:
    """The image files in the class folders of `folder`, and their labels (N,) int64; sorted by class and name.

    Args:
        folder: folder with one folder per class.
        class_names: names of the classes, in the order of the labels.
        root: folder of the set, in which links must stay; None for the parent of `folder`.
        allow_outside: follow links that leave the set.
        suffixes: what counts as an image, in lower case.

    Raises:
        DataError: a class folder is not one of `class_names`, there are no images, or `Listing` finds a fault.
    """
    unknown = [name for name in list_classes(folder) if name not in class_names]
    if unknown:
        raise DataError(
            f"{shown(folder)} has class folders that the training folder lacks: {shown(', '.join(unknown[:5]))}; "
            "add them there or remove them"
        )
    images = Listing(root or folder.parent, folder, class_names, allow_outside, suffixes).images()
    if not images:
        raise DataError(
            f"{shown(folder)} must have images ({' '.join(suffixes)}) in its class folders, got none: add some"
        )
    return [path for path, _ in images], torch.tensor([label for _, label in images])


def read_images(
    folder: Path,
    listed: tuple[list[str], Tensor],
    name: str,
    cache: Path | None,
    shape: tuple[int, ...] | None = None,
    limits: Limits = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """Decode all images in `folder`: uint8 (N, 3, H, W), and labels (N,) int64.

    Args:
        folder: folder with one folder per class.
        listed: what `list_images` found there.
        name: name of the cache file.
        cache: folder of the cache, or None.
        shape: shape that every image must have, (3, H, W); None for that of the first image.
        limits: what a file may hold.

    Raises:
        DataError: an image cannot be read or has another size.
    """
    paths, y = listed
    height, width = shape[1:] if shape is not None else open_image(paths[0], limits=limits).size[::-1]

    def fill(array: np.ndarray) -> None:
        def one(i: int) -> None:
            image = open_image(paths[i], limits=limits)
            if image.size != (width, height):
                size = "×".join(map(str, image.size))
                raise DataError(
                    f"images kept on the device must all be {width}×{height} pixels, got {size}"
                    f" in {shown(paths[i])}: resize the files, or use ImageFolder with resident=False"
                )
            array[i] = np.asarray(image).transpose(2, 0, 1)

        in_threads(one, len(paths), f"decoding {folder.name}")

    key = {"files": file_stamp(map(Path, paths), folder)}
    return torch.from_numpy(cached_array(cache, name, key, (len(paths), 3, height, width), "uint8", fill)), y
