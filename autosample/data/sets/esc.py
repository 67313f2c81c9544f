"""ESC-50 and ESC-10: environmental sounds."""

from pathlib import Path
from typing import Any

from autosample.data.audio import AudioData, ClipList
from autosample.data.clips import Loudness, find_files
from autosample.data.files import is_file, shown
from autosample.data.tables import by_fold, check_fold, number, ranked, read_table
from autosample.errors import DataError


class ESC50(AudioData):
    """ESC-50: 2,000 clips of 5 s in 50 classes of environmental sounds, five official folds.

    Trains on four folds and tests on `fold`; the test fold is never used for validation. The validation part is
    `val_fraction` of the training folds, class by class, with all cuts of one recording on one side. With
    `val_fraction=0` there is none. That is the published protocol: train on all four folds, test once.

    Args:
        root: the folder `ESC-50` (or `ESC-10`), which has `meta/esc50.csv` and `audio/`, or its parent. The suffix of
            audio files may differ from the table's.
        fold: the test fold, 1 to 5.
        esc10: use only the 10 classes of ESC-10.
        val_fraction: share of the training folds held out; 0 for no validation.
        sample_rate, seconds, normalize: as in `AudioData`.
        common: `crop_seconds`, ... of `AudioData`, `batch_size`, ... of `ClassificationData`.

    Raises:
        DataError: the folder or files are missing, or `fold` is not one of 1..5.
    """

    has_folds = (1, 2, 3, 4, 5)
    validates_on_test = False

    def __init__(
        self,
        root: str = "data",
        fold: int = 1,
        esc10: bool = False,
        val_fraction: float = 0.1,
        sample_rate: int = 22050,
        seconds: float = 5.0,
        normalize: Loudness = "peak",
        **common: Any,
    ) -> None:
        super().__init__(root, sample_rate, seconds, normalize, val_fraction=val_fraction, **common)
        check_fold(fold, self.has_folds)
        self.fold, self.esc10 = fold, esc10

    def _home(self) -> Path:
        names = ("ESC-10", "ESC-50", "ESC-50-master") if self.esc10 else ("ESC-50", "ESC-50-master", "ESC-10")
        places = [self.root, *(self.root / name for name in names)]
        known = [place for place in places if is_file(place / "meta" / "esc50.csv")]
        if known:
            return known[0]
        looked = " or ".join(shown(place, 70) for place in places[:2])
        raise DataError(
            f"meta/esc50.csv and audio/ were expected in {looked}, found no such table:"
            " set root to the unpacked set (github.com/karolpiczak/ESC-50)"
        )

    def _list(self) -> ClipList:
        home = self._home()
        table = home / "meta" / "esc50.csv"
        rows = read_table(table, ("filename", "fold", "target", "category", *(["esc10"] if self.esc10 else [])))
        if self.esc10:
            rows = [row for row in rows if row["esc10"].strip().lower() == "true"]
        labels, names = ranked([number(row["target"], "target", table) for row in rows], [r["category"] for r in rows])
        if len(names) != (10 if self.esc10 else 50):
            raise DataError(
                f"{table} must list {10 if self.esc10 else 50} classes, got {len(names)}: "
                + ("set root to ESC-50 or ESC-10" if self.esc10 else "for ESC-10 pass esc10=True, or use AudioCSV")
            )
        paths = find_files([home / "audio" / row["filename"] for row in rows], str(table))
        train, test = by_fold([number(row["fold"], "fold", table) for row in rows], self.fold)
        # FOLD-RECORDING-TAKE-TARGET.wav: takes are cuts of one recording
        groups = [row["filename"].split("-")[1] if row["filename"].count("-") > 2 else row["filename"] for row in rows]
        return ClipList(paths, labels, names, train, test, groups=list(groups))


class ESC10(ESC50):
    """ESC-10: the 400 clips of ESC-50 in 10 classes, with the same five folds.

    Args:
        root, fold, val_fraction, sample_rate, seconds, normalize: as in `ESC50`; either set's folder will do.
        common: `crop_seconds`, ... of `AudioData`, `batch_size`, ... of `ClassificationData`.
    """

    def __init__(
        self,
        root: str = "data",
        fold: int = 1,
        val_fraction: float = 0.1,
        sample_rate: int = 22050,
        seconds: float = 5.0,
        normalize: Loudness = "peak",
        **common: Any,
    ) -> None:
        super().__init__(root, fold, True, val_fraction, sample_rate, seconds, normalize, **common)
