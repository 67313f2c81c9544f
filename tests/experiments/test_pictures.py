"""What pictures promise: a colour a method, labels that cover nothing, plain numbers on axes."""

import math
from itertools import combinations

import pytest

from autosample.experiments import labels as labelling
from autosample.experiments import plots
from autosample.experiments.colours import METHODS, OTHERS, PLANS, for_text, styles
from autosample.experiments.drawing import drawn, log_ticks, plain_log
from autosample.experiments.labels import Box, End, label_ends, spread
from autosample.experiments.plots import plot_moved, plot_overview, plot_tradeoff
from autosample.experiments.windows import WindowMap, plot_windows
from autosample.sampling import PRESETS


def lab(colour: str) -> tuple[float, float, float]:
    """A colour in CIELAB, where distances are those that people see."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_every_preset_has_a_colour_and_none_is_used_twice():
    assert {*PRESETS, "narrow", "learned", "random root"} <= set(METHODS)
    colours = [*(style.colour for style in METHODS.values()), *PLANS.values(), *OTHERS]
    assert len(set(colours)) == len(colours)
    assert min(math.dist(lab(a), lab(b)) for a, b in combinations(colours, 2)) > 15
    assert min(math.dist(lab(a.colour), lab(b.colour)) for a, b in combinations(METHODS.values(), 2)) > 24


def test_a_label_keeps_its_colour_and_unknown_ones_get_others():
    found = styles(["autosample", "autosample 4 bits", "random 4 bits root", "mine", "random 8 bits", "yours"])
    assert found["autosample"].colour == found["autosample 4 bits"].colour == METHODS["autosample"].colour
    assert found["random 4 bits root"].colour == METHODS["random root"].colour
    assert (found["mine"].colour, found["yours"].colour) == OTHERS[:2]
    assert [found[name].dashes for name in ("autosample", "autosample 4 bits", "random 8 bits")] == ["-", ":", "--"]
    many = styles([f"label {i}" for i in range(60)])
    assert len(set(many.values())) == 60


def test_letters_are_dark_enough():
    for style in METHODS.values():
        parts = [int(for_text(style.colour)[i : i + 2], 16) for i in (1, 3, 5)]
        assert 0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2] <= 0.51 * 255


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (10, 110, [10, 20, 30, 50, 100]),
        (0.4, 2.2, [0.5, 1, 2]),
        (8, 2e6, [10, 100, 1000, 1e4, 1e5, 1e6]),
        (44, 190, [50, 60, 80, 100, 150]),
        (3, 1e12, [10, 1e3, 1e5, 1e7, 1e9, 1e11]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert log_ticks(low, high, 6) == pytest.approx(ticks)


def test_ticks_are_written_plainly(tmp_path):
    with drawn(tmp_path / "a.png") as (_, axes):
        panel = axes[0, 0]
        panel.set_xlim(0.4, 20_000)
        plain_log(panel.xaxis)
        assert [panel.xaxis.get_major_formatter()(x) for x in (0.5, 1, 1000, 10_000)] == ["0.5", "1", "1,000", "10,000"]
        assert not list(panel.xaxis.get_minorticklocs())


def test_long_numbers_have_fewer_ticks(tmp_path):
    with drawn(tmp_path / "a.png") as (_, axes):
        panel = axes[0, 0]
        panel.set_xlim(1_500, 60_000)
        plain_log(panel.xaxis, most=5)
        assert list(panel.xaxis.get_majorticklocs()) == pytest.approx([3e3, 1e4, 3e4])


def test_spread_moves_as_little_as_possible():
    assert spread([0, 10, 20], 5, (-100, 100)) == [0, 10, 20]
    assert spread([0, 0, 0], 4, (-100, 100)) == [-4, 0, 4]
    assert spread([0, 1, 50], 4, (-100, 100)) == [-1.5, 2.5, 50]
    assert spread([9, 9], 4, (0, 10)) == [6, 10]
    assert spread([0, 0], 4, (0, 10)) == [0, 4]


def test_boxes():
    box = Box(0, 0, 10, 4)
    assert box.meets(Box(9, 3, 12, 8))
    assert not box.meets(Box(10, 0, 12, 4))
    assert box.crossed((-5, 2), (15, 2))
    assert box.crossed((-1, -1), (5, 5))
    assert not box.crossed((-5, 5), (15, 5))
    assert not box.crossed((-5, 0), (-1, 9))


def boxes_of(monkeypatch) -> list[Box]:
    """The boxes of all labels that are drawn from now on."""
    found: list[Box] = []

    def noted(*args):
        found.extend(boxes := label_ends(*args))
        return boxes

    monkeypatch.setattr(plots, "label_ends", noted)
    return found


SERIES = {
    f"method {i}": {"8x": [(100, 90 + 0.01 * i), (101, 90)], "16x": [(50, 80 + i)], "32x": [(25 - i, 70 + 0.1 * i)]}
    for i in range(12)
} | {"dense": {"": [(800, 95)]}}


@pytest.mark.parametrize("count", [2, 12])
def test_labels_cover_neither_labels_nor_points(tmp_path, monkeypatch, count):
    found, points = boxes_of(monkeypatch), []
    occupied = labelling._occupied
    monkeypatch.setattr(labelling, "_occupied", lambda *args: points.append(occupied(*args)) or points[-1])
    chosen = dict([*list(SERIES.items())[:count], ("dense", SERIES["dense"])])
    plot_tradeoff(chosen, tmp_path / "a.png", "a title", "stored size [kB]", "test accuracy [%]")
    assert len(found) == count + 1
    assert not any(a.meets(b) for a, b in combinations(found, 2))
    ((busy, lines),) = points
    assert not any(labelling._covers(box, busy, lines) for box in found)


def test_a_label_between_other_lines_moves_to_the_next_column(tmp_path):
    """A line that ends where others run on, closely above and below, has no room beside its end."""
    with drawn(tmp_path / "a.png") as (figure, axes):
        figure.subplots_adjust(right=0.7)
        panel = axes[0, 0]
        panel.set_xlim(0, 10)
        panel.set_ylim(0, 10)
        for i in range(41):
            panel.plot([0, 10], [i / 4, i / 4])
        panel.plot([0, 4], [5.1, 5.1])
        first, second = label_ends(panel, [End("short", 4, 5.1, "#000000"), End("long", 10, 5.0, "#000000")], 10)
        right = panel.transData.transform((10, 0))[0]
        assert first.left > right
        assert second.left > right
        assert not first.meets(second)


def test_all_pictures_are_drawn(tmp_path):
    plot_overview({"a [kB]": SERIES, "b [ms]": SERIES}, tmp_path / "overview.png", "title", "test accuracy [%]")
    plot_moved(
        {"net.conv": [[0, 0.5, 1.0, 0.0, 1.0, 2.0, 0.0], [1, 0.6, 2.0, 0.0, 2.0, 40.0, 1.0]]}, tmp_path / "m.png", "t"
    )
    maps = {"conv": WindowMap(2, 3, 9, [[0, 4], [6, 1]], [1.0] * 9), "fc": WindowMap(1, 1, 900, [[0], [6]], [1.0] * 9)}
    plot_windows(maps, tmp_path / "w.png", "t")
    for name in ("overview.png", "m.png", "w.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
