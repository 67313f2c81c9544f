"""A process in which the packages of all extras are missing."""

import subprocess
import sys
from pathlib import Path

from autosample.system.extras import EXTRAS

EXTRA_MODULES = frozenset(name for names in EXTRAS.values() for name in names)

_BLOCKED = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
"""


def without_extras(code: str, *args: object, cwd: Path | None = None, env: dict[str, str] | None = None):
    """Run code in a fresh process that cannot import what only extras bring; gives the finished process.

    Args:
        code: Python.
        args: What it finds in `sys.argv[1:]`.
        cwd, env: Of the process.
    """
    program = _BLOCKED.format(names=set(EXTRA_MODULES)) + code
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)


VERB = "import sys; from autosample.cli.main import main; sys.exit(main(sys.argv[1:]))"
