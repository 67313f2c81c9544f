"""Base of the small image sets, which fit into the memory of the training device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from autosample.data.augment import Compose, Normalize, RandomCropFlip, Resize
from autosample.data.base import ClassificationData, refuse_img_size, require_at_least
from autosample.data.files import reason, shown
from autosample.data.splits import Examples
from autosample.errors import DataError

_DIGITS = tuple("0123456789")
# errors of torchvision's readers for damaged files
_BROKEN = (RuntimeError, OSError, ValueError, AssertionError, EOFError, KeyError, TypeError, IndexError, ImportError)


class SmallImages(ClassificationData):
    """Base of the small image sets: uint8 on the device, augmented there, then normalised to float.

    Args:
        root: folder of the data.
        padding: black pixels added on each side before a random crop; 0 for no random crops.
        flip: mirror training images at random.
        image_size: height and width that the model sees, after bilinear resizing [pixels]; None for the original size.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`.
    """

    names: ClassVar[tuple[str, ...]] = _DIGITS
    native_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    mean: ClassVar[tuple[float, ...]] = (0.5,)
    std: ClassVar[tuple[float, ...]] = (0.5,)

    def __init__(
        self, root: str = "data", padding: int = 0, flip: bool = False, image_size: int | None = None, **common: Any
    ) -> None:
        refuse_img_size(common)
        super().__init__(root, **common)
        require_at_least("padding", padding, 0)
        if image_size is not None:
            require_at_least("image_size", image_size, 1)
        self.padding, self.flip, self.image_size = padding, flip, image_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels; known before `setup`."""
        return self.names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width); known before `setup`."""
        channels, height, width = self.native_shape
        return (channels, self.image_size or height, self.image_size or width)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Shape of the input, and mean and standard deviation of its channels, for pixels from 0 to 1."""
        return {**super().preprocessing, "mean": list(self.mean), "std": list(self.std)}

    def _train_transform(self) -> Callable[..., Tensor]:
        return Compose([RandomCropFlip(self.padding, self.flip), self._eval_transform()])

    def _eval_transform(self) -> Callable[..., Tensor]:
        return Compose([Normalize(self.mean, self.std), Resize(self.image_size) if self.image_size else None])

    def _joined(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Examples:
        """Both parts as one set; `x` uint8 (N, C, H, W)."""
        for x, y in (train, test):
            if tuple(x.shape[1:]) != self.native_shape or len(x) != len(y):
                raise DataError(
                    f"{type(self).__name__} images must have shape {self.native_shape} and a label each, got"
                    f" {tuple(x.shape)} images and {len(y)} labels in {shown(self.root)}: download the files again"
                )
        count = len(train[0])
        x, y = torch.cat([train[0], test[0]]), torch.cat([train[1], test[1]]).long()
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.num_classes:
            raise DataError(
                f"labels must be 0..{self.num_classes - 1}, got {int(y.min())}..{int(y.max())} in {shown(self.root)}: "
                "download the files again"
            )
        return Examples(x, y, torch.arange(count), torch.arange(count, len(x)))


def through_torchvision(reader: Callable[..., Any], root: Path, download: bool, layout: str) -> tuple[Any, Any]:
    """The training part and the test part, as torchvision reads them.

    Raises:
        DataError: Files are missing or damaged.
    """
    try:
        return tuple(reader(str(root), train=train, download=download) for train in (True, False))  # pyright: ignore[reportReturnType]
    except (*_BROKEN, np.exceptions.DTypePromotionError) as error:
        raise DataError(
            f"{layout} in {shown(root)} cannot be read: {reason(error)}; set root to the folder of these files, or "
            "pass download=True"
        ) from error
