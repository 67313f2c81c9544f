"""Base of the audio sets: clips of one length, decoded once and cached, augmented on the device."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from autosample.data.augment import CenterCrop1d, Compose, RandomCrop1d, RandomGain, RandomShift1d
from autosample.data.base import ClassificationData, require_at_least
from autosample.data.cache import cache_folder
from autosample.data.clips import Loudness, read_clips
from autosample.data.files import DEFAULT, Limits
from autosample.data.splits import Examples
from autosample.errors import DataError


@dataclass
class ClipList:
    """The files of an audio set. None of them has been read.

    Args:
        paths: N audio files.
        labels: N labels, 0 .. number of classes - 1.
        class_names: names of the classes, in the order of the labels.
        train, test: rows of these parts.
        val: rows of an official validation part, or None.
        groups: N names of the recordings that clips were cut from, or None; see `hold_out`.
    """

    paths: list[Path]
    labels: list[int]
    class_names: tuple[str, ...]
    train: list[int]
    test: list[int]
    val: list[int] | None = None
    groups: list[Hashable] | None = None


class AudioData(ClassificationData):
    """Base of the audio sets: x is float32 (B, 1, T), with T = sample_rate × seconds (or × crop_seconds).

    Reads files of any format and rate that libsndfile knows. They become mono clips of one length: longer files keep
    their middle, shorter ones get silence on both sides. Decoded clips are cached in one file.

    Args:
        root: folder of the data.
        sample_rate: sample rate of the clips [Hz].
        seconds: length of the clips [s].
        normalize: level of each clip: "peak" (largest absolute value 1), "rms" (RMS 0.1) or "none".
        crop_seconds: length that the model sees [s]: a random part in training, else the middle; None for the whole
            clip.
        shift_seconds: training clips are shifted by up to this time in both directions, filled with silence [s];
            0 for none.
        gain_db: the level of training clips changes by up to this many decibels up or down; 0 for none.
        cache_dir: folder for decoded clips; None for `.autosample-cache` in the set's own folder, if writable.
        max_seconds, max_bytes: the longest sound [s] and the largest file [bytes]; larger ones are not decoded.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`.
    """

    has_folds: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        root: str = "data",
        sample_rate: int = 22050,
        seconds: float = 5.0,
        normalize: Loudness = "peak",
        crop_seconds: float | None = None,
        shift_seconds: float = 0.1,
        gain_db: float = 6.0,
        cache_dir: str | None = None,
        max_seconds: float = DEFAULT.max_seconds,
        max_bytes: int = DEFAULT.max_bytes,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        require_at_least("sample_rate", sample_rate, 1)
        self.samples = round(sample_rate * seconds)
        require_at_least("sample_rate × seconds", self.samples, 1)
        self.crop = self.samples if crop_seconds is None else round(sample_rate * crop_seconds)
        if not 1 <= self.crop <= self.samples:
            raise DataError(
                f"crop_seconds must be above 0 and at most seconds={seconds}, got {crop_seconds}: leave it out"
            )
        require_at_least("shift_seconds", shift_seconds, 0)
        require_at_least("gain_db", gain_db, 0)
        if normalize not in get_args(Loudness):
            raise DataError(f"normalize must be one of {', '.join(get_args(Loudness))}, got {normalize!r}: use peak")
        self.normalize: Loudness = normalize
        self.sample_rate, self.cache_dir = sample_rate, cache_dir
        self.limits = Limits(max_seconds=max_seconds, max_bytes=max_bytes)
        self.max_shift, self.gain_db = round(sample_rate * shift_seconds), gain_db

    def _list(self) -> ClipList:
        """Find the set's files and labels, without reading audio. Called once."""
        raise NotImplementedError

    def _home(self) -> Path:
        """The set's own folder; the cache is written there."""
        return self.root

    @classmethod
    def folds(cls) -> tuple[int, ...]:
        """The set's official folds; empty if it has none."""
        return cls.has_folds

    @cached_property
    def clips(self) -> ClipList:
        """The set's files and labels. Reads no audio."""
        return self._list()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels. Found at the first use, without reading audio."""
        return self.clips.class_names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(1, samples); known before `setup`."""
        return (1, self.crop)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Sample rate [Hz], length of a clip and of the part that the model sees [samples], and how levels are set."""
        made = {"sample_rate": self.sample_rate, "samples": self.samples, "crop": self.crop}
        return {**super().preprocessing, **made, "normalize": self.normalize}

    def _load(self) -> Examples:
        clips = self.clips
        y = torch.tensor(clips.labels, dtype=torch.int64)
        train, test = (torch.tensor(rows, dtype=torch.int64) for rows in (clips.train, clips.test))
        val = None if clips.val is None else torch.tensor(clips.val, dtype=torch.int64)
        # check before the slow decoding
        Examples([], y, train, test, val).check(clips.class_names, str(self._home()))
        cache = cache_folder(self._home(), self.cache_dir)
        x = read_clips(clips.paths, self._home(), cache, self.sample_rate, self.samples, self.normalize, self.limits)
        return Examples(torch.from_numpy(x), y, train, test, val, clips.groups)

    def _train_transform(self) -> Callable[..., Tensor] | None:
        crop = RandomCrop1d(self.crop) if self.crop < self.samples else None
        shift = RandomShift1d(self.max_shift) if self.max_shift else None
        return Compose([shift, crop, RandomGain(self.gain_db) if self.gain_db else None])

    def _eval_transform(self) -> Callable[..., Tensor] | None:
        return CenterCrop1d(self.crop) if self.crop < self.samples else None
