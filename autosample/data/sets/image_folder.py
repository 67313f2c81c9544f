"""Folders of images in ImageNet's layout."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor

from autosample.data.augment import Compose, Normalize, RandomCropFlip, Resize
from autosample.data.base import ClassificationData, require_at_least, require_folder
from autosample.data.cache import cache_folder
from autosample.data.folders import list_classes, list_images, read_images
from autosample.data.splits import Examples
from autosample.data.workers import open_image
from autosample.errors import DataError


class ImageFolder(ClassificationData):
    """Images in `root/train/CLASS/*` and `root/val/CLASS/*`, and in `root/test/CLASS/*` if there is a test part.

    Without `root/test` the test part is `root/val`; without `root/val` the validation part is `root/test`. With
    `val_fraction` above 0 the validation examples are taken from `root/train` instead. Transforms are timm's. With
    `resident=True`, all images must have one size, and training uses padding, random crops and flips on the device.

    Args:
        root: folder that contains `train`.
        img_size: height and width that the model sees [pixels].
        scale: smallest and largest share of an image that a training crop covers.
        hflip: probability of mirroring a training image; with `resident=True`, any value above 0 means one half.
        auto_augment: name of a timm policy, such as "rand-m9-mstd0.5"; None for none.
        color_jitter: strength of timm's colour jitter if there is no policy; 0 for none.
        interpolation: timm's name: "bilinear", "bicubic" or "random".
        crop_pct: share of the resized image's side that the middle crop in evaluation covers; None for timm's 0.875.
        mean, std: mean and standard deviation of the channels, for pixels from 0 to 1.
        padding: pixels around training images; used with `resident=True` only.
        val_fraction: share of `root/train` held out; 0 for `root/val`.
        resident: keep all images on the training device.
        cache_dir: folder for decoded images with `resident=True`; None for `.autosample-cache` in root, if writable.
        common: `batch_size`, `num_workers`, ... of `ClassificationData`.

    Raises:
        DataError: a folder is missing, a class has no training image, an image is unreadable, or an option cannot be
            used with `resident`.
    """

    def __init__(
        self,
        root: str = "data",
        img_size: int = 224,
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
        resident: bool = False,
        cache_dir: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(root, val_fraction=val_fraction, resident=resident, **common)
        require_at_least("img_size", img_size, 1)
        require_at_least("padding", padding, 0)
        if resident and auto_augment is not None:
            raise DataError(f"auto_augment needs resident=False, got {auto_augment!r} with resident=True: remove one")
        self.img_size, self.scale, self.hflip, self.auto_augment = img_size, tuple(scale), hflip, auto_augment
        self.color_jitter, self.interpolation, self.crop_pct = color_jitter, interpolation, crop_pct
        self.mean, self.std, self.padding, self.cache_dir = tuple(mean), tuple(std), padding, cache_dir

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        require_folder(
            [self.root / "train"], f"ImageNet's layout {self.root}/train/CLASS/* and {self.root}/val/CLASS/*"
        )
        return list_classes(self.root / "train")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the folders in `root/train`, sorted; read when first asked for."""
        return self._class_names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(3, img_size, img_size)."""
        return (3, self.img_size, self.img_size)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Shape, interpolation, share of the middle crop, and mean and standard deviation in units of [0, 1]."""
        made = {"interpolation": self.interpolation, "crop_pct": self.crop_pct}
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
            return Compose([Normalize(self.mean, self.std), Resize(self.img_size)])
        return self._timm(crop_pct=self.crop_pct)

    def _timm(self, **options: Any) -> Callable[..., Tensor]:
        return create_transform(
            self.img_size, mean=self.mean, std=self.std, interpolation=self.interpolation, **options
        )  # pyright: ignore[reportReturnType]

    def _load(self) -> Examples:
        names = self.class_names
        has = {part: (self.root / part).is_dir() for part in ("val", "test")}
        if not any(has.values()):
            raise DataError(
                f"a folder {self.root / 'val'} or {self.root / 'test'} was expected, got neither: add one of them"
            )
        use_val = has["val"] and not (self.val_fraction and has["test"])
        parts = ["train"] + [part for part in ("val", "test") if has[part] and (part != "val" or use_val)]
        read = [self._read(part, names) for part in parts]
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

    def _read(self, part: str, names: tuple[str, ...]) -> tuple[Any, Tensor]:
        if not self.resident:
            return list_images(self.root / part, names)
        first = list_images(self.root / "train", names)[0][0]
        width, height = open_image(first).size
        return read_images(self.root / part, names, part, cache_folder(self.root, self.cache_dir), (3, height, width))
