"""Audio files listed in a CSV table."""

import os
import unicodedata
from pathlib import Path
from typing import Any

from torch import Tensor

from autosample.data.audio import AudioData, ClipList, targets
from autosample.data.base import require_test_fraction
from autosample.data.clips import Loudness, find_files
from autosample.data.files import shown
from autosample.data.listing import OUTSIDE
from autosample.data.splits import hold_out
from autosample.data.tables import by_fold, number, read_table
from autosample.errors import DataError


class AudioCSV(AudioData):
    """Audio files listed in a CSV table with the columns `path` and `label`.

    A column `split` (train, val or valid or validation, test) gives the parts, or else a column `fold`. Without both,
    `test_fraction` of each class is the test part. With folds, the test fold is never used for validation.
    Classes are the labels, sorted as text. Spaces around fields do not count. With a `separator`, a clip may have
    several classes, as in AudioSet and FSD50K; the model then needs `multilabel=True`.

    Args:
        root: folder that `path` entries are relative to.
        table: the CSV file, relative to `root`.
        fold: the test fold, as in the table; needed only with a column `fold`.
        test_fraction: share of each class for testing, if the table gives no parts; chosen by `split_seed`.
        separator: what separates several labels of a clip, such as ","; None if each has one.
        sample_rate, seconds, normalize: as in `AudioData`.
        allow_outside: read files outside `root`: absolute paths, `..`, and links that lead there.
        common: `crop_seconds`, ... of `AudioData`, `batch_size`, `val_fraction`, ... of `ClassificationData`.

    Raises:
        DataError: the table, a file or a column is missing, a column has an unusable value, or a file is listed twice
            or lies outside `root`.
    """

    _parts = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}  # noqa: RUF012

    def __init__(
        self,
        root: str = "data",
        table: str = "metadata.csv",
        fold: int | None = None,
        test_fraction: float = 0.2,
        separator: str | None = None,
        sample_rate: int = 16000,
        seconds: float = 1.0,
        normalize: Loudness = "peak",
        allow_outside: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, sample_rate, seconds, normalize, **common)
        require_test_fraction(test_fraction)
        self.table, self.fold, self.test_fraction, self.allow_outside = table, fold, test_fraction, allow_outside
        if separator is not None and not separator.strip():
            raise DataError(f'separator must be a sign, such as ",", got {separator!r}: leave it out')
        self.separator, self.multilabel = separator, separator is not None

    def _list(self) -> ClipList:
        table = self.root / self.table
        rows = read_table(table, ("path", "label"))
        found = find_files([self.root / row["path"] for row in rows], str(table))
        self._check_places(found, table)
        several = [self._labels(row["label"], i + 2, table) for i, row in enumerate(rows)]
        names = tuple(sorted({label for labels in several for label in labels}))
        written = {_number(name): name for name in names}
        if len(written) < len(names):
            other = next(name for name in names if name not in written.values())
            raise DataError(
                f"{shown(table)}: a class must be written in one way, got {shown(other, 40)} and "
                f"{shown(written[_number(other)], 40)}: keep one of them"
            )
        index = {name: i for i, name in enumerate(names)}
        found_labels = [[index[label] for label in labels] for labels in several]
        labels = found_labels if self.multilabel else [first for (first,) in found_labels]
        train, test, val = self._split(rows, targets(labels, len(names)), table)
        return ClipList(found, labels, names, train, test, val)

    def _labels(self, field: str, row: int, table: Path) -> list[str]:
        """The labels in a field; accents are written in one way."""
        field = unicodedata.normalize("NFC", field)
        labels = [field] if self.separator is None else [label.strip() for label in field.split(self.separator)]
        if not all(labels):
            raise DataError(f"{shown(table)}: labels must not be empty, got {shown(field, 40)!r} in row {row}: mend it")
        return labels

    def _check_places(self, found: list[Path], table: Path) -> None:
        """Raise `DataError` if a file comes twice, by whatever path, or lies outside the set."""
        home, seen = os.path.realpath(self.root), set[str]()
        for path in found:
            real = os.path.realpath(path)
            if real in seen:
                raise DataError(
                    f"{shown(table)} must list each file once, got {shown(path)} more than once: remove its other rows"
                )
            seen.add(real)
            if not self.allow_outside and os.path.commonpath([home, real]) != home:
                raise DataError(
                    f"{shown(table)} must list files in {shown(home, 60)}, got {shown(path, 60)}: {OUTSIDE}"
                )

    def _split(
        self, rows: list[dict[str, str]], labels: Tensor, table: Path
    ) -> tuple[list[int], list[int], list[int] | None]:
        """Rows of training, test and validation."""
        if "split" in rows[0]:
            parts: tuple[list[int], list[int], list[int]] = ([], [], [])
            for i, row in enumerate(rows):
                part = self._parts.get(row["split"].lower())
                if part is None:
                    got = shown(row["split"], 40)
                    raise DataError(f"{shown(table)}: split must be train, val or test, got {got!r} in row {i + 2}")
                parts[part].append(i)
            return parts[0], parts[2], parts[1] or None
        if "fold" in rows[0]:
            folds = [number(row["fold"], "fold", table) for row in rows]
            if self.fold not in folds:
                raise DataError(f"fold must be one of {sorted(set(folds))}, got {self.fold}: pass the fold to test on")
            train, test = by_fold(folds, self.fold)
            # an empty part, not None: the test fold must not be used for validation
            return train, test, None if self.val_fraction else []
        kept, held = hold_out(labels, self.test_fraction, self.split_seed)
        return kept.tolist(), held.tolist(), None


def _number(label: str) -> float | str:
    """A label as a number if it is one: 1, 01 and 1.0 are the same."""
    try:
        return label if "_" in label else float(label)
    except ValueError:
        return label
