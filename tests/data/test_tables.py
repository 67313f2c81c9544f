"""CSV tables as people write them."""

import os

import pytest
from data_files import write_tone

from autosample.data import AudioCSV
from autosample.data.tables import ranked, read_table
from autosample.errors import DataError


def audio(folder, text, names="abcdef", **options):
    for name in names:
        write_tone(folder / f"{name}.wav", seconds=0.01)
    (folder / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return AudioCSV(str(folder), **options)


def refused(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_spaces_around_fields_do_not_count(tmp_path):
    data = audio(tmp_path, 'path , label\na.wav,a \n b.wav , a\nc.wav,\tb\n"d.wav", "b "\n')
    assert data.class_names == ("a", "b")
    assert data.clips.labels == [0, 0, 1, 1]
    assert [path.name for path in data.clips.paths] == ["a.wav", "b.wav", "c.wav", "d.wav"]
    assert data.sizes["train"] + data.sizes["val"] + data.sizes["test"] == 4


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_ends_of_lines(tmp_path, end):
    lines = ["path,label,split", "a.wav,x,TRAIN ", '"b.wav","y, z",train', "", "c.wav,x,test", ",,", "d.wav,é,test"]
    data = audio(tmp_path, b"\xef\xbb\xbf" + end.join(lines).encode())
    assert data.class_names == ("x", "y, z", "é")
    assert data.clips.labels == [0, 1, 0, 2]
    assert (data.clips.train, data.clips.test) == ([0, 1], [2, 3])


def test_accents_are_written_in_one_way(tmp_path):
    assert audio(tmp_path, "path,label\na.wav,e\u0301\nb.wav,\u00e9\n").class_names == ("\u00e9",)


def test_labels_that_are_numbers(tmp_path):
    data = audio(tmp_path, "path,label\na.wav,10\nb.wav,9\nc.wav,1\n")
    assert data.class_names == ("1", "10", "9")  # sorted as text, as folders are
    assert data.clips.labels == [1, 2, 0]
    refused(
        lambda: audio(tmp_path, "path,label\na.wav,1\nb.wav,01\n").clips, "written in one way, got 01 and 1: keep one"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.wav,x\nb.wav,dog, small\n", "must have 2 fields, got 3 in row 3: put quotes around fields"),
        ("path,label\na.wav\n", "got an empty field in row 2"),
        ("path,label,label\na.wav,x,y\n", "each column once, got label twice"),
        ("path;label\na.wav;x\n", "got no path, label: its first line is path;label"),
        ('path,label\n"a.wav,x\nb.wav,x\n', "cannot be read as a CSV table"),
        ("path,label\na.wav,x\n./a.wav,y\n", r"each file once, got .*a\.wav more than once"),
        ("path,label\na.wav,x\nsub/../a.wav,y\n", r"each file once, got .*a\.wav more than once"),
        ("path,label\n,x\n", "got an empty field in row 2"),
        ("path,label\n\n  \n", "at least one file"),
        ("path,label\na\0.wav,x\n", r"1 of 1 files .* first .*a\\x00\.wav"),
        ("path,label\n" + "x" * 5000 + "/a.wav,x\n", "1 of 1 files"),
        ("path,label,split\na.wav,x," + "z" * 5000 + "\n", "split must be train, val or test"),
        ("path,label,fold\na.wav,x," + "z" * 5000 + "\n", "whole numbers, got"),
        (b"path,label\na.wav,caf\xe9\n", "in UTF-8"),
        ("path,label\na.wav,x\n".encode("utf-16"), "in UTF-8"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    (tmp_path / "sub").mkdir()
    refused(lambda: audio(tmp_path, text).setup(), message)


def test_a_table_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "metadata.csv")
    refused(lambda: AudioCSV(str(tmp_path)).clips, "a pipe")


def test_files_outside_the_set(tmp_path):
    out = write_tone(tmp_path / "out.wav")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "link.wav").symlink_to(out)
    inside = write_tone(folder / "deep" / "in.wav")
    for path in ("../out.wav", str(out), "link.wav"):
        text = f"path,label,split\n{path},x,test\n{inside},x,train\n"
        refused(lambda text=text: audio(folder, text, "").clips, r"must list files in .*set, got .*allow_outside=True")
        assert audio(folder, text, "", allow_outside=True).clips.labels == [0, 0]
    (folder / "same.wav").symlink_to("deep/in.wav")
    text = "path,label,split\nsame.wav,x,test\ndeep/in.wav,x,train\n"
    refused(lambda: audio(folder, text, "").clips, "each file once")


def test_classes_with_two_names_or_numbers():
    assert ranked([7, 3, 7], ["b", "a", "b"]) == ([1, 0, 1], ("a", "b"))
    refused(lambda: ranked([7, 7], ["b", "a"]), "one number and one name, got number 7 for 2")
    refused(lambda: ranked([7, 3], ["a", "a"]), "one number and one name, got name a for 2")


def test_rows_are_dictionaries(tmp_path):
    (tmp_path / "t.csv").write_text(",path,label,\n0,a.wav,x,\n")
    assert read_table(tmp_path / "t.csv", ("path", "label")) == [{"": "", "path": "a.wav", "label": "x"}]
