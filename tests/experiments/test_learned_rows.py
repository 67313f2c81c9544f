"""The rows of learned selections in published grids: the bytes of their table, and a test of the best one."""

import pytest
import torch

from autosample.budget.sizes import stored_bytes
from autosample.experiments.parse import read_grid
from autosample.experiments.resolve import resolve

BEST = "learned signs, two folds"
GRIDS = {"spoken_digits": "", "esc10": "", "cifar10_5conv_int4": " 4 bits", "cifar10_5conv_int4_16x": " 4 bits"}


def bytes_of(resolved) -> int:
    """Stored bytes, without memory."""
    recipe = resolved.recipe
    with torch.device("meta"):
        net = recipe.bare()
    rules = {name: value for name in ("include", "exclude", "overrides") if (value := getattr(recipe, name))}
    more = {"planned_bits": recipe.planned_bits, "quantize": resolved.quantize}
    return stored_bytes(net, spec=recipe.spec, **more, **rules)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits"), GRIDS.items())
def test_learned_rows_have_the_bytes_of_their_table(name, bits):
    grid = read_grid(f"ablation/{name}")
    assert grid.compare[-1] == BEST + bits
    found = {}
    for cell in grid.cells:
        if cell.repetition == grid.cells[0].repetition and cell.label.startswith(("folded", "learned blocks", BEST)):
            found.setdefault(str(cell.size), {})[cell.label] = bytes_of(resolve(cell))
    assert found
    for sizes in found.values():
        assert set(sizes) == {f"folded{bits}", f"learned blocks{bits}", BEST + bits}
        assert max(sizes.values()) <= 1.02 * min(sizes.values())  # each within 1 % of what was asked for
