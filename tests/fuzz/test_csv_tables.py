"""A damaged CSV table ends in a `DataError`, or in the rows that Python's own reader finds in it."""

import csv
import io
from collections import Counter
from pathlib import Path

import pytest
from fuzzing import damaged_bytes, numbered

from autosample.data import AudioCSV
from autosample.data.audio import ClipList
from autosample.errors import LONGEST, DataError

NAMES = ("dog.wav", "cat.wav", "bird.wav", "two words.wav", "ünï.wav")
LABELS = ("dog", "cat", "dog", "cat", '"a, b"')
HEADS = ("path,label", "path,label,split", "path,label,fold", "label,path,note")
PIECES = (
    b",",
    b'"',
    b"\n",
    b"\r\n",
    b"\x00",
    b"\xff",
    b" ",
    b";",
    b"path",
    b"label",
    "é".encode(),
    b"../" * 9,
    b"=" * 200_000,
)


def table(head: str) -> bytes:
    more = {"split": ("train", "test", "val", "train", "test"), "fold": "12123", "note": "abcde"}
    columns = {"path": NAMES, "label": LABELS, **more}
    rows = [",".join(columns[name][i] for name in head.split(",")) for i in range(len(NAMES))]
    return "\n".join((head, *rows, "")).encode()


def check(clips: ClipList, data: bytes, case: int) -> None:
    """Whether a set has the labels and files of the table, each row in one part."""
    lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True)
    # autosample's own rules: empty lines are skipped, before the head too, and spaces around names do not count
    head, *lines = [line for line in lines if any(field.strip() for field in line)]
    rows = [dict(zip([name.strip() for name in head], line, strict=False)) for line in lines]
    assert [clips.class_names[label].strip() for label in clips.labels] == [row["label"].strip() for row in rows], case
    # the suffix may be another one, as sets are often converted
    assert [path.stem for path in clips.paths] == [Path(row["path"].strip()).stem for row in rows], case
    parts = [*clips.train, *clips.test, *(clips.val or [])]
    assert sorted(parts) == list(range(len(rows))), case


@pytest.mark.slow
def test_no_table_is_misread(tmp_path):
    for name in NAMES:
        (tmp_path / name).touch()
    told = Counter()
    for case, rng in numbered():
        data = table(rng.choice(HEADS))
        if rng.random() < 0.5:
            at = rng.randrange(len(data))
            data = data[:at] + rng.choice(PIECES) + data[at + rng.choice((0, 1, 4)) :]
        else:
            data = damaged_bytes(data, rng)
        (tmp_path / "metadata.csv").write_bytes(data)
        try:
            clips = AudioCSV(str(tmp_path), fold=rng.choice((None, 1)))._list()
        except DataError as error:
            said = str(error)
            told["refused"] += 1
        else:
            check(clips, data, case)
            said = ""
            told["read"] += 1
        assert len(said) <= LONGEST, case
    print(f"tables: {dict(told)}")
    assert min(told["refused"], told["read"]) > 0
