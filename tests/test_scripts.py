"""The shell scripts: what they hand to the set-up that they source."""

import re
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
