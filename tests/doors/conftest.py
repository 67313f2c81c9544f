"""A row in the table of rules for the length of a test."""

import pytest
from low_rank import LowRank

from autosample.sampling import RULES


@pytest.fixture
def low_rank(monkeypatch):
    monkeypatch.setitem(RULES, "lowrank", LowRank)
    return LowRank
