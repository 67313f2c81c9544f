"""Multiplications as a size of grids."""

import json

import pytest
import torch

from autosample import report
from autosample.errors import AutosampleError
from autosample.experiments.attempt import pack_cell, unpack_cell
from autosample.experiments.resolve import resolve
from autosample.experiments.run import run_cell

SHAPE = (1, 8, 8)


def test_all_methods_get_at_most_so_many(grid):
    asked, spec = 40_000, {"preset": "strassen", "options": {"patch": 2}}
    made = grid(
        presets=["dense", "strassen", {**spec, "label": "patches"}], ratios=None, multiplications=[asked], seeds=[1]
    )
    assert [str(cell.size) for cell in made.cells[1:3]] == ["40,000 multiplications"] * 2
    assert made.cells[1].identity["size"] == {"multiplications": asked}
    assert len({cell.id for cell in made.cells}) == 3
    for cell in made.cells[1:3]:
        resolved = resolve(cell, SHAPE)
        assert resolved.recipe.spec["seed"] == 1
        counted = report(resolved.net(), torch.zeros(1, *SHAPE)).multiplications
        assert 0.8 * asked < counted <= asked
        assert unpack_cell(json.loads(json.dumps(pack_cell(cell)))).size == cell.size


@pytest.mark.slow
def test_a_cell_runs(grid):
    """Also one whose data have no arguments."""
    made = grid(presets=["folded"], ratios=None, multiplications=[1_000_000], seeds=1, data={"class": "Digits"})
    record = run_cell(made.cells[0])
    assert record.cell["size"] == {"multiplications": 1_000_000}
    assert record.settings["ratio"] > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multiplications": [0]}, "multiplications must be numbers of at least 1, got 0"),
        ({"multiplications": ["5e6"]}, "multiplications must be numbers of at least 1, got 5e6"),
        ({"multiplications": [5e4], "presets": ["narrow"]}, "narrow has no multiplications to search for"),
        (
            {"multiplications": [5e4], "presets": [{"preset": "strassen", "options": {"products": 1}}]},
            "sizes are keys of the grid, got products in strassen",
        ),
    ],
)
def test_mistakes(grid, changes, message):
    with pytest.raises(AutosampleError, match=message) as error:
        grid(**{"ratios": None, **changes})
    assert "\n" not in str(error.value)
