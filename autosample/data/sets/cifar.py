"""CIFAR-10 and CIFAR-100."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import datasets

from autosample.data.cache import cache_folder
from autosample.data.files import shown
from autosample.data.folders import list_classes, list_images, read_images
from autosample.data.images import SmallImages, through_torchvision
from autosample.data.splits import Examples
from autosample.errors import DataError

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


class CIFAR10(SmallImages):
    """CIFAR-10: 32×32 colour images, 50,000 for training and 10,000 for testing.

    Reads torchvision's layout (`root/cifar-10-batches-py`) or folders of images, `root/cifar10/{train,test}/CLASS/*`
    or `root/{train,test}/CLASS/*`. Decoded folders are cached.

    Args:
        root: folder that contains one of these.
        padding, flip, image_size, download: as in `MNIST`.
        cache_dir: folder for decoded images; None for `.autosample-cache` beside them, if writable.
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
        layout = f"{self.reader.base_folder} or {self.reader.__name__.lower()}/train/CLASS/*"
        train, test = through_torchvision(self.reader, self.root, self.download, layout)
        parts = [(torch.from_numpy(p.data).permute(0, 3, 1, 2), torch.tensor(p.targets)) for p in (train, test)]
        return self._joined(*parts)

    def _from_folder(self, folder: Path, part: str) -> tuple[Tensor, Tensor]:
        found = list_classes(folder / part)
        if found != self.names:
            odd = sorted(set(found) ^ set(self.names))
            raise DataError(
                f"{shown(folder / part)} must have one folder for each of the {self.num_classes} classes of"
                f" {type(self).__name__}, missing or unknown: {shown(', '.join(odd[:5]))}; rename or add folders"
            )
        listed = list_images(folder / part, found, folder)
        return read_images(folder / part, listed, part, cache_folder(folder, self.cache_dir), self.native_shape)


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
