"""Audio files listed in a CSV table."""

from pathlib import Path
from typing import Any

import torch

from autosample.data.audio import AudioData, ClipList
from autosample.data.clips import Loudness, find_files
from autosample.data.splits import hold_out
from autosample.data.tables import by_fold, number, read_table
from autosample.errors import DataError


class AudioCSV(AudioData):
    """Audio files listed in a CSV table with the columns `path` and `label`.

    A column `split` (train, val or valid or validation, test) gives the parts, or else a column `fold`. Without both,
    `test_fraction` of each class is the test part. With folds, the test fold is never used for validation.
    Classes are the sorted labels.

    Args:
        root: folder that `path` entries are relative to.
        table: the CSV file, relative to `root`.
        fold: the test fold, as in the table; needed only with a column `fold`.
        test_fraction: share of each class for testing, if the table gives no parts; chosen by `split_seed`.
        sample_rate, seconds, normalize: as in `AudioData`.
        common: `crop_seconds`, ... of `AudioData`, `batch_size`, `val_fraction`, ... of `ClassificationData`.

    Raises:
        DataError: the table, a file or a column is missing, a column has an unusable value, or a file is listed twice.
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
            raise DataError(f"test_fraction must be in (0, 1), got {test_fraction}: 0.2 holds out a fifth")
        self.table, self.fold, self.test_fraction = table, fold, test_fraction

    def _list(self) -> ClipList:
        table = self.root / self.table
        rows = read_table(table, ("path", "label"))
        listed = [self.root / row["path"] for row in rows]
        twice = {path for path in listed if listed.count(path) > 1} if len(set(listed)) < len(listed) else set()
        if twice:
            raise DataError(f"{table} must list each file once, got {min(twice)} more than once: remove its other rows")
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
            folds = [number(row["fold"] or "", "fold", table) for row in rows]
            if self.fold not in folds:
                raise DataError(f"fold must be one of {sorted(set(folds))}, got {self.fold}: pass the fold to test on")
            train, test = by_fold(folds, self.fold)
            # an empty part, not None: the test fold must not be used for validation
            return train, test, None if self.val_fraction else []
        kept, held = hold_out(torch.tensor(labels), self.test_fraction, self.split_seed)
        return kept.tolist(), held.tolist(), None
