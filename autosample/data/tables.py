"""CSV tables of audio sets: rows, labels and folds."""

import csv
from collections.abc import Sequence
from pathlib import Path

from autosample.errors import DataError, one_line


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of the CSV table in `path`.

    Raises:
        DataError: the file is missing, unreadable or empty, lacks one of `columns`, or has an empty cell in them.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark first
            reader = csv.DictReader(file)
            rows, header = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV table in UTF-8 ({one_line(error)}): check the file") from error
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
            raise DataError(f"{path}: each row must have {', '.join(columns)}, got an empty field in row {number}")
    return rows


def number(text: str, column: str, path: Path) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{path}: column {column} must have whole numbers, got {one_line(text)!r}") from error


def by_fold(folds: Sequence[int], fold: int) -> tuple[list[int], list[int]]:
    """Rows outside `fold`, and rows in it."""
    return [i for i, f in enumerate(folds) if f != fold], [i for i, f in enumerate(folds) if f == fold]


def ranked(ids: Sequence[int], names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Labels 0, 1, ... in the order of the official numbers, and the name of each label."""
    named = dict(zip(ids, names, strict=True))
    rank = {number: label for label, number in enumerate(sorted(named))}
    return [rank[number] for number in ids], tuple(named[number] for number in sorted(named))


def check_fold(fold: int, folds: tuple[int, ...]) -> None:
    if fold not in folds:
        raise DataError(f"fold must be one of {folds[0]}..{folds[-1]}, got {fold}")
