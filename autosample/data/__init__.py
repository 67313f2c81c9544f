"""Data sets as LightningDataModules. Batches are pairs `(x, y)`; see `ClassificationData`.

A new set is a file in `sets/` and a row in `DATASETS`. Grids and `--data` find it there by name.
"""

from autosample.system.extras import require

require("train", "pytorch_lightning")

from autosample.data.audio import AudioData
from autosample.data.base import ClassificationData
from autosample.data.resident import BatchPlan, ResidentLoader
from autosample.data.sets.audio_csv import AudioCSV
from autosample.data.sets.cifar import CIFAR10, CIFAR100
from autosample.data.sets.digits import Digits
from autosample.data.sets.esc import ESC10, ESC50
from autosample.data.sets.image_folder import ImageFolder
from autosample.data.sets.mnist import MNIST, FashionMNIST
from autosample.data.sets.spoken_digits import SpokenDigits
from autosample.data.sets.timm_images import TimmImages
from autosample.data.sets.urbansound import UrbanSound8K

#: All data sets, by name.
DATASETS: dict[str, type[ClassificationData]] = {
    "Digits": Digits,
    "MNIST": MNIST,
    "FashionMNIST": FashionMNIST,
    "CIFAR10": CIFAR10,
    "CIFAR100": CIFAR100,
    "ImageFolder": ImageFolder,
    "TimmImages": TimmImages,
    "ESC50": ESC50,
    "ESC10": ESC10,
    "UrbanSound8K": UrbanSound8K,
    "SpokenDigits": SpokenDigits,
    "AudioCSV": AudioCSV,
}

# data sets are exported through DATASETS
__all__ = ["DATASETS", "AudioData", "BatchPlan", "ClassificationData", "ResidentLoader"]
