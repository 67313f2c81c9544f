"""The Free Spoken Digit Dataset."""

import re
from pathlib import Path
from typing import Any

from autosample.data.audio import AudioData, ClipList
from autosample.data.clips import Loudness
from autosample.data.files import is_folder, shown
from autosample.data.listing import scan
from autosample.errors import DataError


class SpokenDigits(AudioData):
    """The Free Spoken Digit Dataset: 3,000 clips of ten digits by six speakers, at 8 kHz.

    The official test part is takes 0 to 4 of each speaker and digit (300 clips). Both parts have the same speakers.
    20 clips are longer than the default of 1 s; they keep their middle.

    Args:
        root: folder with `DIGIT_SPEAKER_TAKE.wav` files, or a folder that has them in `recordings`, `fsdd/recordings`
            or `free-spoken-digit-dataset/recordings`.
        sample_rate, seconds, normalize: as in `AudioData`.
        common: `crop_seconds`, ... of `AudioData`, `batch_size`, `val_fraction`, ... of `ClassificationData`.

    Raises:
        DataError: there are no such files.
    """

    _pattern = re.compile(r"(\d)_([^_]+)_(\d+)\.(?:wav|flac|ogg)", re.IGNORECASE)

    def __init__(
        self,
        root: str = "data",
        sample_rate: int = 8000,
        seconds: float = 1.0,
        normalize: Loudness = "peak",
        **common: Any,
    ) -> None:
        super().__init__(root, sample_rate, seconds, normalize, **common)

    def _home(self) -> Path:
        below = ("fsdd/recordings", "free-spoken-digit-dataset/recordings", "recordings", ".")
        places = [self.root / name for name in below]
        for place in places:
            if is_folder(place) and any(self._pattern.fullmatch(file.name) for file in scan(place)):
                return place
        looked = ", ".join(below)
        raise DataError(
            f"files DIGIT_SPEAKER_TAKE.wav were expected, found none in {looked} of {shown(self.root)}: "
            "set root to their folder"
        )

    def _list(self) -> ClipList:
        found = [(self._pattern.fullmatch(file.name), Path(file.path)) for file in scan(self._home())]
        clips = [(path, int(match[1]), int(match[3])) for match, path in found if match is not None]
        test = [i for i, (_, _, take) in enumerate(clips) if take < 5]
        train = [i for i, (_, _, take) in enumerate(clips) if take >= 5]
        names = tuple("0123456789")
        return ClipList([path for path, _, _ in clips], [digit for _, digit, _ in clips], names, train, test)
