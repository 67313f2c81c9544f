"""Hiding of notices from other libraries."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*loggers: str, level: int = logging.ERROR, modules: str = "") -> Iterator[None]:
    """Hide log messages below `level` of these loggers, and warnings, inside the block.

    Args:
        loggers: Names of the loggers.
        level: Lowest level that is still shown, as in `logging`.
        modules: A regular expression for the modules whose warnings are hidden; empty for all warnings.
    """
    found = [logging.getLogger(name) for name in loggers]
    before = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(level)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=modules)
        try:
            yield
        finally:
            for logger, old in zip(found, before, strict=True):
                logger.setLevel(old)
