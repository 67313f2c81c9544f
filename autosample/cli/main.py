"""The command line: `autosample VERB [options]`."""

import logging
import os
import sys
from collections.abc import Sequence

from autosample.cli.verbs import overview, run
from autosample.errors import AutosampleError, one_line
from autosample.system.quiet import quiet

# loggers of notices about hardware, possible plug-ins and seeds
_NOTICES = ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed")
# modules whose warnings do not help a user of the command line
_WARN = r"(pytorch_lightning|torch|torchmetrics|lightning_fabric)\."


def main(args: Sequence[str] | None = None) -> int:
    """Run a verb. Returns the exit code: 0, or 2 after a mistake, explained in one line on standard error."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(overview(), end="")
        return 0
    if args[0] == "--version":
        from autosample import __version__

        print(f"autosample {__version__}")
        return 0
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        with quiet(*_NOTICES, level=logging.WARNING, modules=_WARN):
            run(args)
    except AutosampleError as error:
        print(f"autosample: error: {one_line(error)}", file=sys.stderr)
        return 2
    except SystemExit as done:  # --help and --print_config
        return int(done.code or 0)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
