"""ImageNet and sets like it, read and augmented as timm does."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor

from autosample.data.base import ClassificationData, Loader, refuse_img_size, require_at_least
from autosample.data.files import DEFAULT, Limits
from autosample.data.normalising import with_joined_steps
from autosample.data.pictures import Joined, PictureBatches
from autosample.data.resident import BatchPlan
from autosample.data.splits import Examples
from autosample.data.timm_readers import READERS, Parts, check_name
from autosample.errors import DataError, one_line


class TimmImages(ClassificationData):
    """ImageNet, or a set like it, of any size: timm's readers and transforms, and options with timm's names.

    Without a `name`, pictures are in `root/train/CLASS/*` and `root/val/CLASS/*` (or `training`, `validation`, …). With
    `name="tar"` they are in `root/train.tar` and `root/val.tar`, which hold folders or tar files of classes. With
    `name="wds"` they are in the shards `root/train-NUMBER.tar` and `root/val-NUMBER.tar`, as `autosample shard` writes
    them; numbers and order of pictures are those of the folder that they are made of. With `name="hfds/NAME"` they are
    a set of Hugging Face, with parts `train` and `validation`, kept in `root`. The test part is the validation part:
    ImageNet has no other with labels.

    A picture in validation is what `timm`'s own validation makes of it, to the pixel: it is not turned as its EXIF data
    say. Loaders are those of all data sets here, not timm's: they give Lightning the batches of each rank, and a run
    goes on within an epoch with the same numbers.

    Args:
        root: folder of the set.
        name: how the set is kept: "", "tar", "wds" or "hfds/NAME".
        image_size: height and width that the model sees [pixels].
        scale: smallest and largest share of a picture that a training crop covers.
        ratio: smallest and largest width of a training crop over its height.
        hflip: probability of mirroring a training picture.
        color_jitter: strength of colour jitter if `aa` is None; 0 for none.
        aa: timm's policy, such as "rand-m9-mstd0.5-inc1" (RandAugment); None for none.
        re_prob: probability of erasing a rectangle of a training picture.
        re_mode: what is put there: "const" (zeros), "rand" (a colour) or "pixel" (noise).
        num_aug_repeats: how often a picture comes in an epoch, each time augmented anew (repeated augmentation); 0 or 1
            for once. An epoch keeps its length.
        interpolation: timm's name, in validation: "bilinear", "bicubic", …
        train_interpolation: the same in training; "random" draws it for each picture.
        crop_pct: share of the resized picture's side that the crop in validation covers; None for timm's 0.875.
        crop_mode: timm's "center", "squash" or "border".
        mean, std: mean and standard deviation of the channels, for pixels from 0 to 1.
        on_bad: what to do about a picture that cannot be read: "raise" an error, or "skip" it. The next one then takes
            its place, and a warning at the end of the epoch counts them. Prediction always raises. Of
            shards that are missing or cut short, what is there is used, and a warning counts the rest.
        val_fraction: share of the training pictures held out; 0 for the validation part.
        allow_outside: follow links that leave `root`.
        max_pixels, max_bytes: the largest picture [pixels] and file [bytes]; larger ones are not decoded.
        common: `batch_size`, `num_workers`, ... of `ClassificationData`.

    Raises:
        DataError: a part or a class is missing, a picture is unreadable, or timm rejects an option.
        MissingExtra: the package that reads the set is not installed.
    """

    def __init__(
        self,
        root: str = "data",
        name: str = "",
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        color_jitter: float = 0.4,
        aa: str | None = None,
        re_prob: float = 0.0,
        re_mode: Literal["const", "rand", "pixel"] = "pixel",
        num_aug_repeats: int = 0,
        interpolation: str = "bicubic",
        train_interpolation: str = "random",
        crop_pct: float | None = None,
        crop_mode: Literal["center", "squash", "border"] = "center",
        mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, float, float] = IMAGENET_DEFAULT_STD,
        on_bad: Literal["raise", "skip"] = "raise",
        val_fraction: float = 0.0,
        allow_outside: bool = False,
        max_pixels: int = DEFAULT.max_pixels,
        max_bytes: int = DEFAULT.max_bytes,
        **common: Any,
    ) -> None:
        refuse_img_size(common)
        super().__init__(root, val_fraction=val_fraction, resident=False, **common)
        require_at_least("image_size", image_size, 1)
        require_at_least("num_aug_repeats", num_aug_repeats, 0)
        if on_bad not in ("raise", "skip"):
            raise DataError(f'on_bad must be "raise" or "skip", got "{on_bad}"')
        self.set_name, self.image_size, self.num_aug_repeats, self.on_bad = name, image_size, num_aug_repeats, on_bad
        self.interpolation, self.crop_pct, self.crop_mode = interpolation, crop_pct, crop_mode
        self.mean, self.std, self.allow_outside = tuple(mean), tuple(std), allow_outside
        self.limits = Limits(max_pixels=max_pixels, max_bytes=max_bytes)
        self.augmentation = {
            "scale": tuple(scale), "ratio": tuple(ratio), "hflip": hflip, "color_jitter": color_jitter,
            "auto_augment": aa, "re_prob": re_prob, "re_mode": re_mode, "interpolation": train_interpolation,
        }  # fmt: skip
        check_name(name)
        for make in (self._train_transform, self._eval_transform):
            make()  # finds mistakes at once

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in timm's order; the set is read when they are first asked for."""
        return self._parts.names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(3, image_size, image_size)."""
        return (3, self.image_size, self.image_size)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Shape, interpolation, crop, and mean and standard deviation in units of [0, 1]."""
        crop = {"interpolation": self.interpolation, "crop_pct": self.crop_pct, "crop_mode": self.crop_mode}
        return {**super().preprocessing, **crop, "mean": list(self.mean), "std": list(self.std)}

    def _train_transform(self) -> Callable[..., Tensor]:
        return self._timm(is_training=True, **self.augmentation)

    def _eval_transform(self) -> Callable[..., Tensor]:
        return self._timm(interpolation=self.interpolation, crop_pct=self.crop_pct, crop_mode=self.crop_mode)

    def _timm(self, **options: Any) -> Callable[..., Tensor]:
        try:
            made: Any = create_transform(self.input_shape, mean=self.mean, std=self.std, **options)  # pyright: ignore
            return with_joined_steps(made)
        except (AssertionError, KeyError, ValueError, TypeError, IndexError) as error:
            words = f"{type(error).__name__}: {one_line(error)[:80]}"
            raise DataError(
                f"timm must know the transforms, got {words}: change aa, interpolation, train_interpolation or mean"
            ) from error

    def predict_dataloader(self) -> Loader:
        """As `test_dataloader`, but without pictures in the places of others."""
        loader = self.test_dataloader()
        loader.dataset.skip = False
        return loader

    @cached_property
    def _parts(self) -> Parts:
        read = READERS[self.set_name.partition("/")[0]]
        return read(self.root, self.set_name, self.allow_outside, self.on_bad == "skip")

    def _load(self) -> Examples:
        pictures, count = Joined(self._parts.train, self._parts.val), len(self._parts.train.labels)
        val = torch.arange(count, len(pictures))
        made: Any = pictures
        return Examples(made, pictures.labels, torch.arange(count), val, None if self.val_fraction else val)

    def _batches(self, plan: BatchPlan, rows: Tensor, transform: Callable[..., Tensor] | None) -> PictureBatches:
        assert transform is not None
        pictures: Any = self.examples.x
        if plan.shuffle:  # training
            plan = replace(plan, repeats=max(self.num_aug_repeats, 1))
        return PictureBatches(pictures, transform, plan, rows, self.on_bad == "skip", self.limits)
