"""MNIST and Fashion-MNIST."""

from typing import Any, ClassVar

from torchvision import datasets

from autosample.data.images import SmallImages, through_torchvision
from autosample.data.splits import Examples


class MNIST(SmallImages):
    """MNIST: 28×28 grey digits, 60,000 for training and 10,000 for testing.

    Reads `root/MNIST/raw/*-ubyte` (torchvision's layout).

    Args:
        root: folder that contains `MNIST`.
        padding, flip, image_size: as in `SmallImages`.
        download: download the files if they are missing; otherwise the network is not used.
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
        layout = f"{self.reader.__name__}/raw/*-ubyte"
        train, test = through_torchvision(self.reader, self.root, self.download, layout)
        return self._joined(*((part.data.unsqueeze(1), part.targets) for part in (train, test)))


class FashionMNIST(MNIST):
    """Fashion-MNIST: 28×28 grey clothes, 60,000 for training and 10,000 for testing.

    Reads `root/FashionMNIST/raw/*-ubyte` (torchvision's layout).

    Args:
        root: folder that contains `FashionMNIST`.
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
