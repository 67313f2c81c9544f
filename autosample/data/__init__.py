"""Data sets as LightningDataModules. Batches are pairs `(x, y)`; see `ClassificationData`."""

from autosample.data.audio import AudioData
from autosample.data.audio_sets import ESC10, ESC50, AudioCSV, SpokenDigits, UrbanSound8K
from autosample.data.base import ClassificationData
from autosample.data.folders import ImageFolder
from autosample.data.images import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST
from autosample.data.resident import BatchPlan, ResidentLoader

__all__ = [
    "ClassificationData",
    "AudioData",
    "Digits",
    "MNIST",
    "FashionMNIST",
    "CIFAR10",
    "CIFAR100",
    "ImageFolder",
    "ESC50",
    "ESC10",
    "UrbanSound8K",
    "SpokenDigits",
    "AudioCSV",
    "ResidentLoader",
    "BatchPlan",
]
