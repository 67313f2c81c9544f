"""Small image sets, which fit on the training device: digits, MNIST, Fashion-MNIST, CIFAR."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets

from autosample.data.augment import Compose, Normalize, RandomCropFlip, Resize
from autosample.data.base import ClassificationData, require_at_least
from autosample.data.cache import cache_folder
from autosample.data.folders import list_classes, read_images
from autosample.data.splits import Examples, hold_out
from autosample.errors import DataError, one_line

_DIGITS = tuple("0123456789")
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
# what torchvision's readers raise on damaged files
_BROKEN = (RuntimeError, OSError, ValueError, AssertionError, EOFError, KeyError, TypeError, IndexError, ImportError)


class SmallImages(ClassificationData):
    """Base of the small image sets: uint8 on the device, augmented there, then normalised to float.

    Args:
        root: folder of the data.
        padding: random crops come from images padded with this many black pixels on each side; 0 for none.
        flip: mirror training images at random.
        image_size: height and width that the model sees, by bilinear resizing; None for the images' own.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`.
    """

    names: ClassVar[tuple[str, ...]] = _DIGITS
    native_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    mean: ClassVar[tuple[float, ...]] = (0.5,)
    std: ClassVar[tuple[float, ...]] = (0.5,)

    def __init__(
        self, root: str = "data", padding: int = 0, flip: bool = False, image_size: int | None = None, **common: Any
    ) -> None:
        super().__init__(root, **common)
        require_at_least("padding", padding, 0)
        if image_size is not None:
            require_at_least("image_size", image_size, 1)
        self.padding, self.flip, self.image_size = padding, flip, image_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, in the order of their labels; known before `setup`."""
        return self.names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width); known before `setup`."""
        channels, height, width = self.native_shape
        return (channels, self.image_size or height, self.image_size or width)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Shape, mean and standard deviation of the channels in units of [0, 1]."""
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
                    f" {tuple(x.shape)} images and {len(y)} labels in {self.root}: download the files again"
                )
        count = len(train[0])
        x, y = torch.cat([train[0], test[0]]), torch.cat([train[1], test[1]]).long()
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.num_classes:
            raise DataError(
                f"labels must be 0..{self.num_classes - 1}, got {int(y.min())}..{int(y.max())} in {self.root}: "
                "download the files again"
            )
        return Examples(x, y, torch.arange(count), torch.arange(count, len(x)))


class Digits(SmallImages):
    """The 1,797 8×8 grey digits that come with scikit-learn: 10 classes, no files needed.

    The set has no official test part: a fixed fifth of each class is the test part, whatever the seeds.

    Args:
        padding, flip, image_size: as in `SmallImages`.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`; `root` is not used.
    """

    native_shape = (1, 8, 8)
    mean, std = (0.3053,), (0.3761,)

    def __init__(
        self, padding: int = 0, flip: bool = False, image_size: int | None = None, root: str = "", **common: Any
    ) -> None:
        super().__init__(root, padding, flip, image_size, **common)

    def _load(self) -> Examples:
        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)  # pixels are 0..16
        y = torch.from_numpy(labels).long()
        train, test = hold_out(y, fraction=0.2, seed=0)
        return Examples(x, y, train, test)


class MNIST(SmallImages):
    """MNIST: 28×28 grey digits, 60,000 and 10,000, from `root/MNIST/raw/*-ubyte` (torchvision's layout).

    Args:
        root: the folder that holds `MNIST`.
        padding, flip, image_size: as in `SmallImages`.
        download: fetch the files when they are not there; else nothing touches the network.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`.
    """

    mean, std = (0.1307,), (0.3081,)
    reader: ClassVar[type[datasets.MNIST]] = datasets.MNIST

    def __init__(
        self,
        root: str = "data",
        padding: int = 2,
        flip: bool = False,
        image_size: int | None = None,
        download: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, padding, flip, image_size, **common)
        self.download = download

    def _load(self) -> Examples:
        layout = f"{self.root / self.reader.__name__ / 'raw'}/*-ubyte"
        train, test = _through_torchvision(self.reader, self.root, self.download, layout)
        return self._joined(*((part.data.unsqueeze(1), part.targets) for part in (train, test)))


class FashionMNIST(MNIST):
    """Fashion-MNIST: 28×28 grey clothes, 60,000 and 10,000, from `root/FashionMNIST/raw/*-ubyte`.

    Args:
        root: the folder that holds `FashionMNIST`.
        padding, flip, image_size, download: as in `MNIST`.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`.
    """

    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    mean, std = (0.2860,), (0.3530,)
    reader = datasets.FashionMNIST

    def __init__(
        self,
        root: str = "data",
        padding: int = 2,
        flip: bool = True,
        image_size: int | None = None,
        download: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, padding, flip, image_size, download, **common)


class CIFAR10(SmallImages):
    """CIFAR-10: 32×32 colour images, 50,000 and 10,000.

    Reads torchvision's layout (`root/cifar-10-batches-py`) or folders of images, `root/cifar10/{train,test}/CLASS/*`
    or `root/{train,test}/CLASS/*`. Decoded folders are cached.

    Args:
        root: the folder that holds one of these.
        padding, flip, image_size, download: as in `MNIST`.
        cache_dir: folder for decoded images; None for `.autosample-cache` beside them where that can be written.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`.
    """

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    native_shape = (3, 32, 32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    reader: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10

    def __init__(
        self,
        root: str = "data",
        padding: int = 4,
        flip: bool = True,
        image_size: int | None = None,
        download: bool = False,
        cache_dir: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(root, padding, flip, image_size, **common)
        self.download, self.cache_dir = download, cache_dir

    def _load(self) -> Examples:
        if not (self.root / self.reader.base_folder).is_dir():
            for folder in (self.root / self.reader.__name__.lower(), self.root):
                if (folder / "train").is_dir():
                    return self._joined(*(self._from_folder(folder, part) for part in ("train", "test")))
        layout = f"{self.root / self.reader.base_folder} or {self.root / self.reader.__name__.lower()}/train/CLASS/*"
        train, test = _through_torchvision(self.reader, self.root, self.download, layout)
        parts = [(torch.from_numpy(p.data).permute(0, 3, 1, 2), torch.tensor(p.targets)) for p in (train, test)]
        return self._joined(*parts)

    def _from_folder(self, folder: Path, part: str) -> tuple[Tensor, Tensor]:
        found = list_classes(folder / part)
        if found != self.names:
            odd = sorted(set(found) ^ set(self.names))
            raise DataError(
                f"{folder / part} must have one folder for each of the {self.num_classes} classes of"
                f" {type(self).__name__}, got a difference in {', '.join(odd[:5])}: rename or add folders"
            )
        return read_images(folder / part, found, part, cache_folder(folder, self.cache_dir), self.native_shape)


class CIFAR100(CIFAR10):
    """CIFAR-100: 32×32 colour images in 100 fine classes, 50,000 and 10,000.

    Reads `root/cifar-100-python`, or folders of images as `CIFAR10` does (`root/cifar100/...`).

    Args:
        root, padding, flip, image_size, download, cache_dir: as in `CIFAR10`.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`.
    """

    names = tuple(_CIFAR100.split())
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    reader = datasets.CIFAR100


def _through_torchvision(reader: Callable[..., Any], root: Path, download: bool, layout: str) -> tuple[Any, Any]:
    """The training and test part as torchvision reads them."""
    try:
        return tuple(reader(str(root), train=train, download=download) for train in (True, False))  # pyright: ignore[reportReturnType]
    except (*_BROKEN, np.exceptions.DTypePromotionError) as error:
        raise DataError(
            f"readable files {layout} were expected, got: {one_line(error)}; set root to the folder that holds them"
            " (download=True fetches them)"
        ) from error
