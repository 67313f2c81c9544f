"""`python -m autosample` is the command line."""

import sys

from autosample.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
