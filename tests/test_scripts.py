"""The shell scripts: what they hand to the set-up that they source."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = [
    path
    for path in sorted((Path(__file__).parents[1] / "scripts").glob("*.sh"))
    if any(line.startswith("source ") for line in path.read_text().splitlines())
]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_set_up_is_told_what_to_install(path):
    """Without an argument a sourced file sees those of its caller, and would install a folder of data as an extra."""
    (extra,) = re.findall(r'^source "\$\(dirname "\$0"\)/setup\.sh" (\w+)', path.read_text(), re.M)
    declared = (path.parents[1] / "pyproject.toml").read_text()
    assert extra == "base" or re.search(rf"^{extra} = \[", declared, re.M)


@pytest.mark.slow
@pytest.mark.parametrize(("products", "most"), [(7, 20), (6, 0)])
def test_strassens_algorithm_is_found_with_seven_multiplications_and_never_with_six(products, most):
    script = Path(__file__).parents[1] / "scripts" / "rediscover_strassen.py"
    options = ["--restarts", "20", "--products", str(products)]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, check=True)
    (found,) = re.findall(r"^(\d+) of 20 restarts", done.stdout)
    assert (int(found) >= 5) == bool(most)
    assert int(found) <= most
