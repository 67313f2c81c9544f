"""Folders of images in ImageNet's layout: one folder per class."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from autosample.data.base import require_folder
from autosample.data.cache import cached_array, file_stamp, in_threads
from autosample.data.workers import open_image
from autosample.errors import DataError


def list_classes(folder: Path) -> tuple[str, ...]:
    """Names of the class folders in `folder`, sorted, without hidden folders.

    Raises:
        DataError: `folder` is missing or contains no folders.
    """
    require_folder([folder], f"a folder {folder} with one folder of images per class")
    names = tuple(sorted(e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")))
    if not names:
        raise DataError(f"{folder} must have one folder of images per class, got none: put the images into folders")
    return names


def list_images(folder: Path, class_names: tuple[str, ...]) -> tuple[list[str], Tensor]:
    """The image files in the class folders of `folder`, and their labels (N,) int64; sorted by class and name.

    Raises:
        DataError: a class folder is not one of `class_names`, or there are no images.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    unknown = [name for name in list_classes(folder) if name not in labels]
    if unknown:
        raise DataError(
            f"{folder} has class folders that the training folder lacks: {', '.join(unknown[:5])}; add them there or "
            "remove them"
        )
    files = make_dataset(str(folder), labels, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not files:
        raise DataError(
            f"{folder} must have images ({' '.join(IMG_EXTENSIONS)}) in its class folders, got none: add some"
        )
    return [path for path, _ in files], torch.tensor([label for _, label in files])


def read_images(
    folder: Path, class_names: tuple[str, ...], name: str, cache: Path | None, shape: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """Decode all images in `folder`: uint8 (N, 3, H, W), and labels (N,) int64.

    Args:
        folder: folder with one folder per class.
        class_names: names of the classes, in the order of the labels.
        name: name of the cache file.
        cache: folder of the cache, or None.
        shape: shape that every image must have, (3, H, W); None for that of the first image.

    Raises:
        DataError: an image cannot be read or has another size.
    """
    paths, y = list_images(folder, class_names)
    height, width = shape[1:] if shape is not None else open_image(paths[0]).size[::-1]

    def fill(array: np.ndarray) -> None:
        def one(i: int) -> None:
            image = open_image(paths[i])
            if image.size != (width, height):
                size = "×".join(map(str, image.size))
                raise DataError(
                    f"images kept on the device must all be {width}×{height} pixels, got {size}"
                    f" in {paths[i]}: resize the files, or use ImageFolder with resident=False"
                )
            array[i] = np.asarray(image).transpose(2, 0, 1)

        in_threads(one, len(paths), f"decoding {folder.name}")

    key = {"files": file_stamp(map(Path, paths), folder)}
    return torch.from_numpy(cached_array(cache, name, key, (len(paths), 3, height, width), "uint8", fill)), y
