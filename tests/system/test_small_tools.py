"""Differences, tables, notices, and what machine this is."""

import io
import logging
import math
import time
import types
import warnings
import xml.etree.ElementTree

import pytest
import torch

from autosample.system import machine, progress
from autosample.system.difference import largest_difference, relative_error
from autosample.system.quiet import quiet
from autosample.system.tables import as_html, as_markdown, as_text, make_table


@pytest.mark.parametrize(
    ("expected", "got", "relative", "absolute"),
    [
        ([1.0, -4.0], [1.0, -3.0], 0.25, 1.0),
        ([0.0], [0.0], 0.0, 0.0),
        ([0.0], [1.0], 1e30, 1.0),
        ([1.0], [math.nan], math.inf, math.inf),
        ([math.nan, 2.0], [math.nan, 2.0], 0.0, 0.0),
        ([math.inf, 2.0], [math.inf, 1.0], 0.5, 1.0),
        ([math.inf], [1.0], math.inf, math.inf),
        ([], [], 0.0, 0.0),
    ],
)
def test_largest_difference(expected, got, relative, absolute):
    found = largest_difference([torch.tensor(expected)], [torch.tensor(got)])
    assert found == pytest.approx((relative, absolute))
    # the worst of several outputs
    more = [torch.tensor([1e9]), torch.tensor(expected)], [torch.tensor([1e9]), torch.tensor(got)]
    assert largest_difference(*more) == pytest.approx((relative, absolute))


def test_other_shapes_differ_by_infinity_and_complex_numbers_count():
    assert largest_difference([torch.zeros(2)], [torch.zeros(3)]) == (math.inf, math.inf)
    assert largest_difference([torch.zeros(2)], []) == (math.inf, math.inf)
    assert largest_difference([torch.tensor([2j])], [torch.tensor([1.0 + 2j])]).relative == pytest.approx(0.5)


def test_relative_error():
    assert relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])) == pytest.approx(0.2)
    assert relative_error(torch.zeros(3), torch.ones(3)) == 0


def test_tables():
    heads, rows = ("name", "size"), [("a|b", "1"), ("[red]c", "22")]
    text = as_text(make_table(heads, rows, left=("name",), last=("all", "23"), title="sizes"), width=60)
    assert all(word in text for word in ("sizes", "name", "a|b", "[red]c", "23"))
    assert as_markdown(heads, rows, left=1) == ("| name | size |\n| --- | ---: |\n| a\\|b | 1 |\n| [red]c | 22 |\n")


def test_tables_in_notebooks():
    table = make_table(("name", "size"), [("<b>", "1")], left=("name",), last=("all", "1"))
    found = xml.etree.ElementTree.fromstring(as_html(table))
    rows = [[cell.text for cell in row] for row in found]
    assert rows == [["name", "size"], ["<b>", "1"], ["all", "1"]]
    assert [cell.get("style") for cell in found[1]] == ["text-align:left", "text-align:right"]


def test_quiet_hides_what_it_names_and_restores_it(caplog):
    loud, other = logging.getLogger("loud"), logging.getLogger("other")
    loud.setLevel(logging.INFO)
    with quiet("loud"), warnings.catch_warnings(record=True) as seen:
        loud.warning("hidden")
        other.warning("shown")
        loud.error("shown too")
    assert [record.message for record in caplog.records] == ["shown", "shown too"]
    assert not seen
    assert loud.level == logging.INFO
    with quiet():
        warnings.warn("hidden", UserWarning, stacklevel=1)
    with quiet(modules="nowhere"), pytest.warns(UserWarning, match="shown"):
        warnings.warn("shown", UserWarning, stacklevel=1)


def module(name: str, code: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(code, made.__dict__)
    return made


def test_warnings_point_at_the_line_of_the_user():
    """Neither at ours nor at that of a library between, since the command line hides warnings about its lines."""
    ours = module("autosample.made_up", "from autosample.system.warning import warn\ndef tell(): warn('told')")
    library = module("torch.made_up", "def call(function): function()")
    for call in (lambda: ours.tell(), lambda: library.call(ours.tell)):
        with pytest.warns(UserWarning, match="^told$") as found:
            call()
        assert [warning.filename for warning in found] == [__file__]
        assert found[0].lineno == call.__code__.co_firstlineno


def test_the_machine(monkeypatch):
    assert machine.processor()
    assert machine.hardware().startswith(machine.processor())
    assert machine.cores() >= 1
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [machine.threads_for(jobs) for jobs in (1, 3, 16)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.threads_for(2) == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("seconds", "shown"), [(0.3, True), (0.0, False)])
def test_long_work_shows_a_sign(monkeypatch, seconds, shown):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE", 0.1)
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    with progress.busy("writing a file"):
        time.sleep(seconds)
    assert ("writing a file" in screen.getvalue()) == shown
    monkeypatch.setattr("sys.stderr", plain := io.StringIO())  # a log stays clean
    with progress.busy("writing a file"):
        time.sleep(seconds)
    assert plain.getvalue().strip() == ""
