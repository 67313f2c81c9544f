"""Hints are made from values, and nobody has to read them back."""

from autosample.errors import closest, hint, one_line


def test_the_closest_names():
    known = {"WSNet", "random", "Digits", "digits_more"}
    assert closest("wsnt", known) == ["WSNet"]
    assert closest("digits", known) == ["Digits", "digits_more"]
    assert closest("zzz", known) == []
    assert closest("x", []) == []


def test_hints():
    assert hint("wsnt", ["wsnet", "random"]) == 'did you mean "wsnet"?'
    assert hint("digits", ["digits1", "digits2", "digits3"]).count('"') == 4
    assert hint("zzz", iter(["b", "a"])) == "known: a, b"
    assert hint("zzz", ["b", "a"], otherwise="see --help") == "see --help"


def test_one_line():
    assert one_line("a\n  b\tc ") == "a b c"
