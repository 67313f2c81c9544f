"""Shared parts of all pictures: font sizes, plain numbers on axes, and atomic writing."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autosample.system.extras import require
from autosample.system.files import whole

#: Pictures are shown about 800 pixels wide. With a width of 8 inches, 11 points are then 15 pixels.
WIDTH = 8.0
_LETTERS: dict[Any, Any] = {
    "font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11.5, "xtick.labelsize": 10.5, "ytick.labelsize": 10.5,
    "figure.titlesize": 12.5, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
_DPI = 160
_LETTERS_PER_TICK = 4  # with more of them, labels run into one another
_STEPS = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))


@contextmanager
def drawn(path: Path, down: int = 1, across: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and an array of its axes. At the end of the block the figure is written as a PNG.

    Args:
        path: File to write.
        down, across: Number of axes in each direction.
        options: Options of `matplotlib.pyplot.subplots`.
    """
    require("ablate", "matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(_LETTERS):
        figure, axes = plt.subplots(down, across, squeeze=False, **options)
        yield figure, axes
        with whole(path) as partial:
            figure.savefig(partial, dpi=_DPI)
        plt.close(figure)


def plain_log(axis: Any, most: int = 6) -> None:
    """Make an axis logarithmic, with ticks such as 0.5, 1, 2 instead of powers of ten.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`, with its final limits.
        most: Maximum number of ticks.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis._set_axes_scale("log")
    low, high = axis.get_view_interval()
    letters, ticks = _LETTERS_PER_TICK * most, log_ticks(low, high, most)
    while len(ticks) > 2 and sum(len(_told(tick)) for tick in ticks) > letters:
        ticks = log_ticks(low, high, len(ticks) - 1)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _told(value)))
    axis.set_minor_locator(NullLocator())


def _told(value: float) -> str:
    """A number at a tick."""
    return f"{value:,.10g}"


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between `low` and `high` for ticks: as many as possible, but at most `most`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        ticks = [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]
