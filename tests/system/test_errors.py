"""Hints are made from values, and nobody has to read them back."""

import copy

import pytest

from autosample.errors import LONGEST, AutosampleError, closest, hint, one_line


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


@pytest.mark.parametrize("kind", [AutosampleError, *AutosampleError.__subclasses__()])
def test_no_message_is_longer_than_300_characters(kind):
    """One had 251,141, out of a file."""
    error = kind(f'tensor "{"x" * 251_000}" must be float32: use another copy')
    assert len(str(error)) == LONGEST
    assert str(error).startswith('tensor "xxx')
    assert str(error).endswith('xx" must be float32: use another copy')
    assert str(copy.copy(error)) == str(error)
    assert str(kind("short: fix it")) == "short: fix it"


def test_a_message_is_one_line_that_no_terminal_obeys():
    error = AutosampleError("a\n\tb \x1b[31mred\x00 \ud800 é: fix")
    assert str(error) == "a b ?[31mred? ? é: fix"
    assert len(str(AutosampleError("\n" * 10_000 + "x"))) <= LONGEST
