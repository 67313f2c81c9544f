"""Base of the audio sets: clips of one length, decoded once and cached, augmented on the device."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from autosample.data.augment import CenterCrop1d, Compose, RandomCrop1d, RandomGain, RandomShift1d, SpecMask
from autosample.data.base import ClassificationData, Loader, require_at_least
from autosample.data.cache import cache_folder
from autosample.data.clips import Loudness, read_clip, read_clips
from autosample.data.files import DEFAULT, Limits, shown
from autosample.data.resident import BatchPlan
from autosample.data.sounds import SoundBatches
from autosample.data.spectrum import LogMel
from autosample.data.splits import Examples
from autosample.data.workers import PlannedBatches
from autosample.errors import DataError
from autosample.system.warning import warn


@dataclass
class ClipList:
    """The files of an audio set. None of them has been read.

    Args:
        paths: N audio files.
        labels: N labels, 0 .. number of classes - 1; or N lists of them, if a clip may have several.
        class_names: names of the classes, in the order of the labels.
        train, test: rows of these parts.
        val: rows of an official validation part, or None.
        groups: N names of the recordings that clips were cut from, or None; see `hold_out`.
    """

    paths: list[Path]
    labels: Sequence[int] | Sequence[Sequence[int]]
    class_names: tuple[str, ...]
    train: list[int]
    test: list[int]
    val: list[int] | None = None
    groups: list[Hashable] | None = None

    def examples(self, x: Any) -> Examples:
        """The data set with `x` as its examples."""
        train, test = (torch.tensor(rows, dtype=torch.int64) for rows in (self.train, self.test))
        val = None if self.val is None else torch.tensor(self.val, dtype=torch.int64)
        return Examples(x, targets(self.labels, len(self.class_names)), train, test, val, self.groups)


def targets(labels: Sequence[int] | Sequence[Sequence[int]], classes: int) -> Tensor:
    """Labels as a tensor, (N,) int64; lists of labels as (N, classes), bool."""
    if not labels or isinstance(labels[0], int):
        return torch.tensor(labels, dtype=torch.int64)
    y = torch.zeros(len(labels), classes, dtype=torch.bool)
    for row, several in zip(y, labels, strict=True):
        row[list(several)] = True  # pyright: ignore[reportArgumentType]
    return y


class AudioData(ClassificationData):
    """Base of the audio sets: x is float32 (B, 1, T), with T = sample_rate × seconds (or × crop_seconds).

    With `log_mel`, x is a log-mel spectrogram (B, 1, n_mels, frames), made on the device: an image of one channel, for
    nets of timm with `in_chans=1`.

    Reads files of any format and rate that libsndfile knows. They become mono clips of one length: longer files keep
    their middle, shorter ones get silence on both sides. Decoded clips are cached in one file, unless they are read
    `from_files`.

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
        log_mel: settings of `LogMel` for spectrograms, such as {n_mels: 64}, {} for the usual ones; None for waves.
        freq_mask, time_mask: widest masks over training spectrograms [bands, frames] (`SpecMask`); 0 for none.
        masks: number of masks along each axis.
        from_files: read clips when they are needed, in worker processes, instead of all at once into a cache: for sets
            larger than memory, or with long files. A training clip is then a random part of its whole file, and only
            this part is read. Levels are those of the part.
        on_bad: what to do about a file that cannot be read: "raise" an error, or "skip" it. A warning counts such
            files. Read `from_files`, the next one takes the place of each. Prediction always raises.
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
        log_mel: dict[str, Any] | None = None,
        freq_mask: int = 0,
        time_mask: int = 0,
        masks: int = 1,
        from_files: bool = False,
        on_bad: Literal["raise", "skip"] = "raise",
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
        if on_bad not in ("raise", "skip"):
            raise DataError(f'on_bad must be "raise" or "skip", got "{on_bad}"')
        self.normalize: Loudness = normalize
        self.sample_rate, self.cache_dir = sample_rate, cache_dir
        self.limits = Limits(max_seconds=max_seconds, max_bytes=max_bytes)
        self.max_shift, self.gain_db = round(sample_rate * shift_seconds), gain_db
        self.from_files, self.skip, self._unreadable = from_files, on_bad == "skip", ""
        if from_files:  # only the part that the model sees is read
            self.samples, self.resident = self.crop, False
        self.log_mel = None if log_mel is None else LogMel.of(log_mel, sample_rate)
        if (freq_mask or time_mask) and self.log_mel is None:
            raise DataError(f"masks need spectrograms, got freq_mask={freq_mask}, time_mask={time_mask}: set log_mel")
        self.mask = SpecMask(freq_mask, time_mask, masks) if freq_mask or time_mask else None
        shape = self.input_shape  # finds mistakes at once, as do the masks
        if self.mask is not None:
            self.mask(torch.zeros(1, *shape), torch.Generator())

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
        """(1, samples), or (1, bands, frames) with `log_mel`; known before `setup`."""
        return (1, self.crop) if self.log_mel is None else (1, *self.log_mel.shape(self.crop))

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Sample rate [Hz], lengths of a clip and of the part that the model sees [samples], level, and spectrogram."""
        made = {"sample_rate": self.sample_rate, "samples": self.samples, "crop": self.crop}
        mel = {} if self.log_mel is None else {"log_mel": self.log_mel.settings()}
        return {**super().preprocessing, **made, "normalize": self.normalize, **mel}

    def _load(self) -> Examples:
        clips, home = self.clips, self._home()
        # check before the slow decoding
        examples = clips.examples([str(path) for path in clips.paths])
        examples.check(clips.class_names, str(home))
        if self.from_files:
            return examples
        cache = cache_folder(home, self.cache_dir)
        how = self.sample_rate, self.samples, self.normalize, self.limits, self.skip
        examples.x = torch.from_numpy(read_clips(clips.paths, home, cache, *how))
        return self._readable(examples, examples.x) if self.skip else examples

    def _readable(self, examples: Examples, x: Tensor) -> Examples:
        """The examples without those that could not be read, which are NaN in `x`."""
        bad = torch.isnan(x[:, 0, 0])
        if not bad.any():
            return examples
        first = self.clips.paths[int(bad.int().argmax())]
        self._unreadable = f"{shown(first)}: not readable"
        try:
            self._read(first)
        except DataError as error:
            self._unreadable = str(error)
        warn(
            f"sounds that could not be read: {int(bad.sum())} of {len(bad)}; they are left out; the first: "
            f"{self._unreadable}"
        )
        train, test = (rows[~bad[rows]] for rows in (examples.train, examples.test))
        val = None if examples.val is None else examples.val[~bad[examples.val]]
        return replace(examples, train=train, test=test, val=val)

    @property
    def _read(self) -> Callable[..., np.ndarray]:
        given = {"sample_rate": self.sample_rate, "samples": self.samples, "normalize": self.normalize}
        return partial(read_clip, **given, limits=self.limits)

    def _train_transform(self) -> Callable[..., Tensor] | None:
        crop = RandomCrop1d(self.crop) if self.crop < self.samples else None
        shift = RandomShift1d(self.max_shift) if self.max_shift else None
        gain = RandomGain(self.gain_db) if self.gain_db else None
        return Compose([shift, crop, gain, self.log_mel, self.mask])

    def _eval_transform(self) -> Callable[..., Tensor] | None:
        crop = CenterCrop1d(self.crop) if self.crop < self.samples else None
        return Compose([crop, self.log_mel]) if crop or self.log_mel else None

    def _batches(self, plan: BatchPlan, rows: Tensor, transform: Callable[..., Tensor] | None) -> PlannedBatches:
        examples = self.examples
        if isinstance(examples.x, Tensor):
            return super()._batches(plan, rows, transform)
        return SoundBatches(examples.x, examples.y, self._read, transform, plan, rows, self._device(), self.skip)

    def predict_dataloader(self) -> Loader:
        """As `test_dataloader`, but without sounds left out or in the places of others.

        Raises:
            DataError: a sound has been left out.
        """
        loader = self.test_dataloader()
        if self._unreadable:
            raise DataError(self._unreadable)
        if self.from_files:
            loader.dataset.skip = False
        return loader
