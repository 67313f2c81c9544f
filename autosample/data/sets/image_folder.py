"""Folders of images in ImageNet's layout."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor

from autosample.data.augment import Compose, Normalize, RandomCropFlip, Resize
from autosample.data.base import (
    ClassificationData,
    refuse_img_size,
    require_at_least,
    require_folder,
    require_test_fraction,
)
from autosample.data.cache import cache_folder
from autosample.data.files import DEFAULT, Limits, is_folder, shown
from autosample.data.folders import list_classes, list_images, read_images
from autosample.data.image_files import open_image
from autosample.data.listing import scan
from autosample.data.splits import Examples, hold_out
from autosample.errors import DataError

_PARTS = ("train", "training", "val", "valid", "validation", "test", "testing")


class ImageFolder(ClassificationData):
    """Images in `root/train/CLASS/*` and `root/val/CLASS/*`, and in `root/test/CLASS/*` if there is a test part.

    Without `root/test` the test part is `root/val`; without `root/val` the validation part is `root/test`. With
    `val_fraction` above 0 the validation examples are taken from `root/train` instead. Images in `root/CLASS/*`,
    without parts, are split by `split_seed`: `test_fraction` of each class is the test part. Transforms are timm's.
    With `resident=True`, all images must have one size, and training uses padding, random crops and flips on the
    device.

    Args:
        root: folder that contains `train`, or the class folders.
        image_size: height and width that the model sees [pixels].
        scale: smallest and largest share of an image that a training crop covers.
        hflip: probability of mirroring a training image; with `resident=True`, any value above 0 means one half.
        auto_augment: name of a timm policy, such as "rand-m9-mstd0.5"; None for none.
        color_jitter: strength of timm's colour jitter if there is no policy; 0 for none.
        interpolation: timm's name: "bilinear", "bicubic" or "random".
        crop_pct: share of the resized image's side that the middle crop in evaluation covers; None for timm's 0.875.
        mean, std: mean and standard deviation of the channels, for pixels from 0 to 1.
        padding: pixels around training images; used with `resident=True` only.
        val_fraction: share of the training examples held out; 0 for `root/val`, or the test part.
        test_fraction: share of each class for testing, if `root` has no parts.
        resident: keep all images on the training device.
        cache_dir: folder for decoded images with `resident=True`; None for `.autosample-cache` in root, if writable.
        allow_outside: follow links that leave `root`.
        max_pixels, max_bytes: the largest image [pixels] and file [bytes]; larger ones are not decoded.
        common: `batch_size`, `num_workers`, ... of `ClassificationData`.

    Raises:
        DataError: a folder is missing, a class has no training image, an image is unreadable or too large, a link leads
            outside or to another class, or an option cannot be used with `resident`.
    """

    def __init__(
        self,
        root: str = "data",
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        hflip: float = 0.5,
        auto_augment: str | None = None,
        color_jitter: float = 0.4,
        interpolation: str = "bilinear",
        crop_pct: float | None = None,
        mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, float, float] = IMAGENET_DEFAULT_STD,
        padding: int = 4,
        val_fraction: float = 0.0,
        test_fraction: float = 0.2,
        resident: bool = False,
        cache_dir: str | None = None,
        allow_outside: bool = False,
        max_pixels: int = DEFAULT.max_pixels,
        max_bytes: int = DEFAULT.max_bytes,
        **common: Any,
    ) -> None:
        refuse_img_size(common)
        super().__init__(root, val_fraction=val_fraction, resident=resident, **common)
        require_at_least("image_size", image_size, 1)
        require_at_least("padding", padding, 0)
        require_test_fraction(test_fraction)
        if resident and auto_augment is not None:
            raise DataError(f"auto_augment needs resident=False, got {auto_augment!r} with resident=True: remove one")
        self.image_size, self.scale, self.hflip, self.auto_augment = image_size, tuple(scale), hflip, auto_augment
        self.color_jitter, self.interpolation, self.crop_pct = color_jitter, interpolation, crop_pct
        self.mean, self.std, self.padding, self.cache_dir = tuple(mean), tuple(std), padding, cache_dir
        self.test_fraction, self.allow_outside = test_fraction, allow_outside
        self.limits = Limits(max_pixels=max_pixels, max_bytes=max_bytes)

    @cached_property
    def _flat(self) -> bool:
        """Whether `root` has class folders instead of parts."""
        layout = "ImageNet's layout train/CLASS/* and val/CLASS/*, or CLASS/*,"
        found = [entry.name for entry in scan(self.root) if entry.is_dir()] if is_folder(self.root) else []
        if "train" in found:
            return False
        parts = [name for name in found if name.lower() in _PARTS]
        if parts or all(name.startswith(".") for name in found):
            require_folder([self.root / "train"], layout)
        return True

    @property
    def _classes(self) -> Path:
        return self.root if self._flat else self.root / "train"

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        return list_classes(self._classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the class folders, sorted; read when first asked for."""
        return self._class_names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(3, image_size, image_size)."""
        return (3, self.image_size, self.image_size)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Shape, interpolation, share of the middle crop, and mean and standard deviation in units of [0, 1]."""
        made: dict[str, Any] = {"interpolation": self.interpolation, "crop_pct": self.crop_pct}
        if self.resident:  # the whole image, resized as `_eval_transform` does
            made = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
        return {**super().preprocessing, **made, "mean": list(self.mean), "std": list(self.std)}

    def _train_transform(self) -> Callable[..., Tensor]:
        if self.resident:
            return Compose([RandomCropFlip(self.padding, self.hflip > 0), self._eval_transform()])
        return self._timm(
            is_training=True,
            scale=self.scale,
            hflip=self.hflip,
            auto_augment=self.auto_augment,
            color_jitter=self.color_jitter,
        )

    def _eval_transform(self) -> Callable[..., Tensor]:
        if self.resident:
            return Compose([Normalize(self.mean, self.std), Resize(self.image_size)])
        return self._timm(crop_pct=self.crop_pct)

    def _timm(self, **options: Any) -> Callable[..., Tensor]:
        return create_transform(
            self.image_size, mean=self.mean, std=self.std, interpolation=self.interpolation, **options
        )  # pyright: ignore[reportReturnType]

    def _load(self) -> Examples:
        names = self.class_names
        if self._flat:
            x, y = self._read(self.root, names)
            train, test = hold_out(y, self.test_fraction, self.split_seed)
            return Examples(x, y, train, test, None if self.val_fraction else test)
        has = {part: is_folder(self.root / part) for part in ("val", "test")}
        if not any(has.values()):
            raise DataError(f"a folder val or test was expected in {shown(self.root)}, got neither: add one of them")
        use_val = has["val"] and not (self.val_fraction and has["test"])
        parts = ["train"] + [part for part in ("val", "test") if has[part] and (part != "val" or use_val)]
        read = [self._read(self.root / part, names) for part in parts]
        ends = np.cumsum([0] + [len(y) for _, y in read]).tolist()
        rows = {part: torch.arange(*ends[i : i + 2]) for i, part in enumerate(parts)}
        first = read[0][0]
        if isinstance(first, Tensor):
            x: Any = torch.cat([part for part, _ in read])
        else:
            x = [path for part, _ in read for path in part]
        test = rows["test"] if has["test"] else rows["val"]
        val = rows.get("val", test) if not self.val_fraction else None
        return Examples(x, torch.cat([y for _, y in read]), rows["train"], test, val)

    def _read(self, folder: Path, names: tuple[str, ...]) -> tuple[Any, Tensor]:
        listed = list_images(folder, names, self.root, self.allow_outside)
        if not self.resident:
            return listed
        cache = cache_folder(self.root, self.cache_dir)
        return read_images(folder, listed, "all" if self._flat else folder.name, cache, self._shape, self.limits)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """(3, height, width) of the first training image; with `resident`, all have this size."""
        paths, _ = list_images(self._classes, self.class_names, self.root, self.allow_outside)
        width, height = open_image(paths[0], limits=self.limits).size
        return (3, height, width)
