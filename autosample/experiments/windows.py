"""Where the windows of a layer lie on its summary: the part that a record keeps, and a picture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autosample.experiments.colours import OTHERS
from autosample.experiments.drawing import WIDTH, drawn
from autosample.nn import compressed_layers
from autosample.sampling import multiplicity

# number of layers whose windows a record keeps: the largest ones
_MAPPED = 2
# how much of a window map is drawn and kept in a record
_MOST_FILTERS, _MOST_WINDOWS, _MOST_BINS = 96, 4, 256
# minimum width of a bar [share of the picture], so it stays visible
_NARROWEST = 1 / 250


@dataclass(frozen=True)
class WindowMap:
    """Where the windows of a layer lie: the part that a picture shows.

    Attributes:
        windows, window, length: Windows per filter, rows per window, rows of the summary.
        offsets: Offsets of the first filters and windows.
        uses: How often each row of the summary is used, averaged over equal bins.
    """

    windows: int
    window: int
    length: int
    offsets: list[list[int]]
    uses: list[float]

    @classmethod
    def of(cls, offsets: Tensor, window: int, length: int) -> "WindowMap":
        """The map of a layer.

        Args:
            offsets: Offsets of its windows [rows], shape `(N, G)`.
            window, length: Rows of a window and of the summary.
        """
        offsets = offsets.cpu()
        uses = multiplicity(offsets, window, length).float()
        binned = torch.nn.functional.adaptive_avg_pool1d(uses[None], min(length, _MOST_BINS))[0]
        shown = offsets[:_MOST_FILTERS, :_MOST_WINDOWS].tolist()
        return cls(offsets.shape[1], window, length, shown, [round(u, 2) for u in binned.tolist()])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def window_maps(net: nn.Module) -> dict[str, Any]:
    """The window maps of a net's largest layers that have windows, by name, as plain data."""
    layers = compressed_layers(net)
    found = {name: layer.windows_on_summary() for name, layer in layers.items()}
    with_windows = {name: told for name, told in found.items() if told is not None}
    chosen = sorted(with_windows, key=lambda name: layers[name].facts().dense)[-_MAPPED:]
    return {name: WindowMap.of(*with_windows[name]).to_dict() for name in chosen}


def plot_windows(layers: Mapping[str, WindowMap], path: Path, title: str) -> None:
    """Draw where windows lie: a row for each filter, and below, how often each row of the summary is used."""
    from matplotlib.collections import PolyCollection
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    with drawn(path, 2, len(layers), figsize=(WIDTH, 5.4), layout="constrained", height_ratios=(3, 1)) as drawing:
        figure, axes = drawing
        for column, (name, m) in enumerate(layers.items()):
            top, bottom = axes[0, column], axes[1, column]
            for number, starts in enumerate(zip(*m.offsets, strict=True)):
                bars = [_bar(row, start, max(m.window, m.length * _NARROWEST)) for row, start in enumerate(starts)]
                top.add_collection(PolyCollection(bars, facecolors=OTHERS[number], alpha=0.7, lw=0))
            top.set_ylim(-1, len(m.offsets) + 1)
            top.set_title(
                f"{name}: {_counted(m.windows, 'window')}\nof {_counted(m.window, 'row')} a filter", fontsize=11
            )
            top.set_ylabel("filter" if column == 0 else "")
            step = m.length / len(m.uses)
            middles = [(i + 0.5) * step for i in range(len(m.uses))]
            bottom.fill_between(middles, m.uses, step="mid", color="#8a9199", lw=0)
            bottom.set_ylim(bottom=0)
            bottom.set_xlabel("summary row")
            bottom.set_ylabel("how often\na row is used" if column == 0 else "")
            for panel in (top, bottom):
                panel.set_xlim(0, m.length)
                panel.xaxis.set_major_locator(MaxNLocator(5))
                panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        figure.suptitle(title, x=0.02, ha="left")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _bar(row: int, start: float, length: float) -> list[tuple[float, float]]:
    """The corners of a bar."""
    return [(start + x, row + y) for x, y in ((0, -0.5), (length, -0.5), (length, 0.5), (0, 0.5))]
