"""Audio sets: ESC-50 and ESC-10, UrbanSound8K, the Free Spoken Digit Dataset, and any set with a CSV table."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autosample.data.audio import AudioData, ClipList
from autosample.data.base import require_folder
from autosample.data.clips import Loudness, find_files
from autosample.data.splits import hold_out
from autosample.errors import DataError, one_line


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of the CSV table in `path`.

    Raises:
        DataError: it is missing, unreadable or empty, lacks one of `columns`, or has a row too short for them.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark first
            reader = csv.DictReader(file)
            rows, header = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: a CSV table in UTF-8 was expected, got {one_line(error)}") from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(
            f"{path} must have the columns {', '.join(columns)}, got no {', '.join(missing)}: its first line is"
            f" {','.join(header) or 'empty'}"
        )
    if not rows:
        raise DataError(f"{path} must list at least one file, got none: add a row for each file")
    for number, row in enumerate(rows, 2):
        if any(not row[column] for column in columns):
            raise DataError(f"{path}: each row must fill {', '.join(columns)}, got an empty one in row {number}")
    return rows


def _number(text: str, column: str, path: Path) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{path}: column {column} must hold whole numbers, got {one_line(text)!r}") from error


def _by_fold(folds: Sequence[int], fold: int) -> tuple[list[int], list[int]]:
    """Rows outside and inside of `fold`."""
    return [i for i, f in enumerate(folds) if f != fold], [i for i, f in enumerate(folds) if f == fold]


def _ranked(ids: Sequence[int], names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Labels 0, 1, ... in the order of the official numbers, and the names that belong to them."""
    named = dict(zip(ids, names, strict=True))
    rank = {number: label for label, number in enumerate(sorted(named))}
    return [rank[number] for number in ids], tuple(named[number] for number in sorted(named))


def _check_fold(fold: int, folds: tuple[int, ...]) -> None:
    if fold not in folds:
        raise DataError(f"fold must be one of {folds[0]}..{folds[-1]}, got {fold}")


class ESC50(AudioData):
    """ESC-50: 2,000 clips of 5 s in 50 classes of environmental sounds, five official folds.

    Trains on four folds and tests on `fold`; the test fold is never used for validation. `val_fraction` of the
    training folds, by class and with all cuts of one recording on one side, is the validation part; with
    `val_fraction=0` there is none, which is the published protocol: train on all four folds, test once.

    Args:
        root: the folder `ESC-50` (or `ESC-10`), which has `meta/esc50.csv` and `audio/`, or its parent. Audio files may
            have another suffix than the table says.
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
        _check_fold(fold, self.has_folds)
        self.fold, self.esc10 = fold, esc10

    def _home(self) -> Path:
        names = ("ESC-10", "ESC-50", "ESC-50-master") if self.esc10 else ("ESC-50", "ESC-50-master", "ESC-10")
        places = [self.root, *(self.root / name for name in names)]
        known = [place for place in places if (place / "meta" / "esc50.csv").is_file()]
        if known:
            return known[0]
        raise DataError(
            f"meta/esc50.csv and audio/ were expected in {' or '.join(map(str, places[:3]))}, found no such table:"
            " set root to the unpacked set (github.com/karolpiczak/ESC-50)"
        )

    def _list(self) -> ClipList:
        home = self._home()
        table = home / "meta" / "esc50.csv"
        rows = read_table(table, ("filename", "fold", "target", "category", *(["esc10"] if self.esc10 else [])))
        if self.esc10:
            rows = [row for row in rows if row["esc10"].strip().lower() == "true"]
        labels, names = _ranked(
            [_number(row["target"], "target", table) for row in rows], [r["category"] for r in rows]
        )
        if len(names) != (10 if self.esc10 else 50):
            raise DataError(
                f"{table} must list {10 if self.esc10 else 50} classes, got {len(names)}: "
                + ("set root to ESC-50 or ESC-10" if self.esc10 else "for ESC-10 give esc10=True, or use AudioCSV")
            )
        paths = find_files([home / "audio" / row["filename"] for row in rows], str(table))
        train, test = _by_fold([_number(row["fold"], "fold", table) for row in rows], self.fold)
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
        _check_fold(fold, self.has_folds)
        self.fold = fold

    def _home(self) -> Path:
        layout = "UrbanSound8K's folder with metadata/UrbanSound8K.csv and audio/foldN/"
        metadata = require_folder([self.root / "metadata", self.root / "UrbanSound8K" / "metadata"], layout)
        return metadata.parent

    def _list(self) -> ClipList:
        home = self._home()
        table = home / "metadata" / "UrbanSound8K.csv"
        rows = read_table(table, ("slice_file_name", "fold", "classID", "class"))
        folds = [_number(row["fold"], "fold", table) for row in rows]
        labels, names = _ranked([_number(row["classID"], "classID", table) for row in rows], [r["class"] for r in rows])
        listed = [home / "audio" / f"fold{f}" / r["slice_file_name"] for f, r in zip(folds, rows, strict=True)]
        train, test = _by_fold(folds, self.fold)
        # RECORDING-CLASS-OCCURRENCE-SLICE.wav
        groups = [row["slice_file_name"].split("-")[0] for row in rows]
        return ClipList(find_files(listed, str(table)), labels, names, train, test, groups=list(groups))


class SpokenDigits(AudioData):
    """The Free Spoken Digit Dataset: 3,000 clips of ten digits by six speakers, 8 kHz.

    Takes 0 to 4 of each speaker and digit are the official test part (300 clips); the speakers are the same in both
    parts. 20 clips are longer than the default 1 s and keep their middle.

    Args:
        root: the folder with `DIGIT_SPEAKER_TAKE.wav` files, or one that has them in `recordings`, `fsdd/recordings` or
            `free-spoken-digit-dataset/recordings`.
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
            if place.is_dir() and any(self._pattern.fullmatch(file.name) for file in place.iterdir()):
                return place
        looked = ", ".join(str(place) for place in places)
        raise DataError(f"files DIGIT_SPEAKER_TAKE.wav were expected, found none in {looked}: set root to their folder")

    def _list(self) -> ClipList:
        found = [(self._pattern.fullmatch(path.name), path) for path in sorted(self._home().iterdir())]
        clips = [(path, int(match[1]), int(match[3])) for match, path in found if match is not None]
        test = [i for i, (_, _, take) in enumerate(clips) if take < 5]
        train = [i for i, (_, _, take) in enumerate(clips) if take >= 5]
        names = tuple("0123456789")
        return ClipList([path for path, _, _ in clips], [digit for _, digit, _ in clips], names, train, test)


class AudioCSV(AudioData):
    """Any set of audio files listed in a CSV table with the columns `path` and `label`.

    A column `split` (train, val or valid or validation, test) or else `fold` gives the parts; without either,
    `test_fraction` of each class is the test part. With folds, the test fold is never used for validation.
    Classes are the sorted labels.

    Args:
        root: folder that `path` entries are relative to.
        table: the CSV file, relative to `root`.
        fold: the test fold, as the table writes it; needed with a column `fold` only.
        test_fraction: share of each class for testing, in a table without parts; chosen by `split_seed`.
        sample_rate, seconds, normalize: as in `AudioData`.
        common: `crop_seconds`, ... of `AudioData`, `batch_size`, `val_fraction`, ... of `ClassificationData`.

    Raises:
        DataError: the table or files are missing, a column is missing or holds something else, or a file comes twice.
    """

    _parts = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}  # noqa: RUF012

    def __init__(
        self,
        root: str = "data",
        table: str = "metadata.csv",
        fold: int | None = None,
        test_fraction: float = 0.2,
        sample_rate: int = 16000,
        seconds: float = 1.0,
        normalize: Loudness = "peak",
        **common: Any,
    ) -> None:
        super().__init__(root, sample_rate, seconds, normalize, **common)
        if not 0 < test_fraction < 1:
            raise DataError(f"test_fraction must be in (0, 1), got {test_fraction}: give 0.2 for a fifth")
        self.table, self.fold, self.test_fraction = table, fold, test_fraction

    def _list(self) -> ClipList:
        table = self.root / self.table
        rows = read_table(table, ("path", "label"))
        listed = [self.root / row["path"] for row in rows]
        twice = {path for path in listed if listed.count(path) > 1} if len(set(listed)) < len(listed) else set()
        if twice:
            raise DataError(
                f"{table} must list each file once, got {min(twice)} again: a clip must be in one part only"
            )
        names = tuple(sorted({row["label"] for row in rows}))
        labels = [names.index(row["label"]) for row in rows]
        train, test, val = self._split(rows, labels, table)
        return ClipList(find_files(listed, str(table)), labels, names, train, test, val)

    def _split(
        self, rows: list[dict[str, str]], labels: list[int], table: Path
    ) -> tuple[list[int], list[int], list[int] | None]:
        """Rows of training, test and validation."""
        if "split" in rows[0]:
            parts: tuple[list[int], list[int], list[int]] = ([], [], [])
            for i, row in enumerate(rows):
                part = self._parts.get((row["split"] or "").strip().lower())
                if part is None:
                    raise DataError(f"{table}: split must be train, val or test, got {row['split']!r} in row {i + 2}")
                parts[part].append(i)
            return parts[0], parts[2], parts[1] or None
        if "fold" in rows[0]:
            folds = [_number(row["fold"] or "", "fold", table) for row in rows]
            if self.fold not in folds:
                raise DataError(f"fold must be one of {sorted(set(folds))}, got {self.fold}: say which fold to test on")
            train, test = _by_fold(folds, self.fold)
            # an empty part rather than None: a fold must not pick the model that it tests
            return train, test, None if self.val_fraction else []
        kept, held = hold_out(torch.tensor(labels), self.test_fraction, self.split_seed)
        return kept.tolist(), held.tolist(), None
