"""UrbanSound8K: street sounds."""

from pathlib import Path
from typing import Any

from autosample.data.audio import AudioData, ClipList
from autosample.data.base import require_folder
from autosample.data.clips import Loudness, find_files
from autosample.data.tables import by_fold, check_fold, number, ranked, read_table


class UrbanSound8K(AudioData):
    """UrbanSound8K: 8,732 clips of up to 4 s in 10 classes of street sounds, ten official folds.

    Trains on nine folds and tests on `fold`; validation is as in `ESC50`.

    Args:
        root: the folder `UrbanSound8K`, which has `metadata/UrbanSound8K.csv` and `audio/foldN/`, or its parent.
        fold: the test fold, 1 to 10.
        val_fraction: share of the training folds held out; 0 for no validation.
        sample_rate, seconds, normalize: as in `AudioData`.
        common: `crop_seconds`, ... of `AudioData`, `batch_size`, ... of `ClassificationData`.

    Raises:
        DataError: the folder or files are missing, or `fold` is not one of 1..10.
    """

    has_folds = tuple(range(1, 11))
    validates_on_test = False

    def __init__(
        self,
        root: str = "data",
        fold: int = 1,
        val_fraction: float = 0.1,
        sample_rate: int = 22050,
        seconds: float = 4.0,
        normalize: Loudness = "peak",
        **common: Any,
    ) -> None:
        super().__init__(root, sample_rate, seconds, normalize, val_fraction=val_fraction, **common)
        check_fold(fold, self.has_folds)
        self.fold = fold

    def _home(self) -> Path:
        layout = "UrbanSound8K's folder with metadata/UrbanSound8K.csv and audio/foldN/"
        metadata = require_folder([self.root / "metadata", self.root / "UrbanSound8K" / "metadata"], layout)
        return metadata.parent

    def _list(self) -> ClipList:
        home = self._home()
        table = home / "metadata" / "UrbanSound8K.csv"
        rows = read_table(table, ("slice_file_name", "fold", "classID", "class"))
        folds = [number(row["fold"], "fold", table) for row in rows]
        labels, names = ranked([number(row["classID"], "classID", table) for row in rows], [r["class"] for r in rows])
        listed = [home / "audio" / f"fold{f}" / r["slice_file_name"] for f, r in zip(folds, rows, strict=True)]
        train, test = by_fold(folds, self.fold)
        # RECORDING-CLASS-OCCURRENCE-SLICE.wav
        groups = [row["slice_file_name"].split("-")[0] for row in rows]
        return ClipList(find_files(listed, str(table)), labels, names, train, test, groups=list(groups))
