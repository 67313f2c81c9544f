"""CSV tables of audio sets: rows, labels and folds."""

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from autosample.data.files import DEFAULT, reason, require_file, shown
from autosample.errors import DataError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of the CSV table in `path`, without spaces around names and fields.

    Raises:
        DataError: the file is missing, unreadable or empty, lacks one of `columns` or has two of the same name, a row
            has more fields than columns, or an empty field in `columns`.
    """
    require_file(path, DEFAULT.max_bytes)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark first
            lines = [[field.strip() for field in line] for line in csv.reader(file, skipinitialspace=True, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{shown(path)} cannot be read as a CSV table in UTF-8 ({reason(error)}): check the file"
        ) from error
    header, *rows = [line for line in lines if any(line)] or [[]]
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(
            f"{shown(path)} must have the columns {', '.join(columns)}, got no {', '.join(missing)}: its first line is"
            f" {shown(','.join(header) or 'empty', 60)}"
        )
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise DataError(f"{shown(path)} must have each column once, got {shown(twice[0])} twice: rename one")
    if not rows:
        raise DataError(f"{shown(path)} must list at least one file, got none: add a row for each file")
    for number, row in enumerate(rows, 2):
        if len(row) > len(header):
            raise DataError(
                f"{shown(path)}: each row must have {len(header)} fields, got {len(row)} in row {number}: put quotes "
                "around fields with a comma"
            )
    table = [dict(zip_longest(header, row, fillvalue="")) for row in rows]
    for number, row in enumerate(table, 2):
        if any(not row[column] for column in columns):
            raise DataError(
                f"{shown(path)}: each row must have {', '.join(columns)}, got an empty field in row {number}"
            )
    return table


def number(text: str, column: str, path: Path) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{shown(path)}: column {column} must have whole numbers, got {shown(text, 40)!r}") from error


def by_fold(folds: Sequence[int], fold: int) -> tuple[list[int], list[int]]:
    """Rows outside `fold`, and rows in it."""
    return [i for i, f in enumerate(folds) if f != fold], [i for i, f in enumerate(folds) if f == fold]


def ranked(ids: Sequence[int], names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Labels 0, 1, ... in the order of the official numbers, and the name of each label."""
    pairs = set(zip(ids, names, strict=True))
    for side, kind in ((0, "number"), (1, "name")):
        most, count = Counter(pair[side] for pair in pairs).most_common(1)[0]
        if count > 1:
            raise DataError(
                f"each class must have one number and one name, got {kind} {most} for {count}: mend the table"
            )
    named = dict(pairs)
    rank = {number: label for label, number in enumerate(sorted(named))}
    return [rank[number] for number in ids], tuple(named[number] for number in sorted(named))


def check_fold(fold: int, folds: tuple[int, ...]) -> None:
    if fold not in folds:
        raise DataError(f"fold must be one of {folds[0]}..{folds[-1]}, got {fold}")
