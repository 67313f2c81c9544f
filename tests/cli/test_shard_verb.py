"""The verb `shard`: what it prints, and its mistakes."""

import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 1)):
        for name in ("a", "b"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{i}.jpg")
    return tmp_path / "set"


def test_it_writes_goes_on_and_checks(autosample, root, tmp_path):
    out = tmp_path / "out"
    for words in (("shard", root, out, "--size", 4), ("shard", root, out, "--size=4"), ("shard", out, "--check")):
        code, said, err = autosample(*words)
        assert (code, err) == (0, "")
        size = sum(path.stat().st_size for path in out.glob("train-*.tar"))
        first, second, last = said.splitlines()
        assert first == f"train: 6 files of 2 classes, {size:,} bytes in 2 shards"
        assert second.startswith("val: 2 files of 2 classes, ")
        assert last == f"{'checked' if '--check' in words else 'written'}: {out}"
    (out / "val-000000.tar").write_bytes(b"")
    code, said, err = autosample("shard", out, "--check")
    assert (code, said) == (2, "")
    assert re.fullmatch(r"autosample: error: shards must be as in _info.json, got 1 that are not: val-.*\n", err)


def test_files_that_cannot_be_read(autosample, root, tmp_path):
    (root / "train" / "b" / "1.jpg").write_bytes(b"\xff\xd8no")
    code, said, err = autosample("shard", root, tmp_path / "out")
    assert (code, said) == (2, "")
    assert re.fullmatch(r"autosample: error: .*b/1.jpg: not a readable image .*\n", err)
    code, said, err = autosample("shard", root, tmp_path / "out", "--on-bad", "skip")
    assert (code, err) == (0, "")
    assert re.search(r"^train: 5 files", said)
    assert re.search(r"\nleft out, as they cannot be read: 1; the first: .*b/1.jpg: not a readable image", said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "source"),
        (("{root}",), "shard needs a set and a folder, or --check and a folder alone"),
        (("{root}", "out", "--check"), "shard needs a set and a folder, or --check and a folder alone"),
        (("{root}", "out", "--on-bad", "drop"), "on-bad must be raise or skip, got drop: leave it out"),
        (("{root}", "out", "--size", "0"), "size must be at least 1, got 0"),
        (("{root}", "out", "--size", "x"), "size must be a whole number, got x"),
        (("{root}", "out", "--max_pixels", "0"), "max_pixels must be above 0, got 0"),
        (("{root}", "out", "--sed", "1"), 'no option is called "sed": did you mean "seed"'),
        (("nowhere", "out"), "a folder with one folder per class, or a CSV table, was expected"),
    ],
)
def test_mistakes(autosample, root, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = autosample("shard", *(word.format(root=root) for word in words))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "out").exists()
