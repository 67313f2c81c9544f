"""Sizes in closed form, and the one dial `ratio`."""

import math

import pytest

import autosample
from autosample import PRESETS, AutosampleError, spec
from autosample.sampling import plan_geometry

# (L, M, N) of SoundNet-8's convolutions (WSNet, table 1)
SOUNDNET8 = [
    (64, 1, 16), (32, 16, 32), (16, 32, 64), (8, 64, 128),
    (4, 128, 256), (4, 256, 512), (4, 512, 1024), (8, 1024, 1401),
]  # fmt: skip

# S8C4: 184 + 624 + 1136 + 2160 + 8288 + 32960 + 131456 + 360448; S8C8: the same halved from conv2 on.
# (The paper's 520 K and 288 K are for S8C4D2 and S8C8D2 with its own task head.)
TOTALS = {4: 537_256, 8: 268_720}


@pytest.mark.parametrize(("spatial", "channel"), [(8, 4), (8, 8)])
def test_soundnet8_in_closed_form(spatial, channel):
    total = 0
    for taps, channels, filters in SOUNDNET8:
        geometry = plan_geometry(
            spec("wsnet", options={"spatial": spatial, "channel": channel}), (filters, channels, taps)
        )
        stride = math.ceil(taps / spatial)
        compact = max(c for c in range(1, channel + 1) if channels % c == 0)
        assert geometry.stored == (taps + (filters - 1) * stride) * channels // compact
        total += geometry.stored
    assert total == TOTALS[channel]


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
@pytest.mark.parametrize("ratio", [2, 8, 64])
@pytest.mark.parametrize(
    "shape",
    [
        (1000, 784),
        (128, 64, 32),
        (512, 512, 3, 3),
        (256, 128, 1, 1),
        (96, 48, 5),
        (64, 64, 7, 3),
        (512, 128),
        (64, 32, 3, 3, 3),
    ],
)
def test_the_asked_ratio_is_met(preset, ratio, shape):
    geometry = plan_geometry(spec(preset, ratio=ratio), shape)
    if preset in ("wsnet", "fsnet"):  # integer strides: within reach of one step of the stride
        steps = geometry.sampled - 1
        one_step = steps * geometry.columns / geometry.stored
        most = geometry.dense / ((geometry.window + steps) * geometry.columns)
        assert abs(math.log(geometry.ratio / ratio)) <= max(0.06, one_step) or geometry.ratio == pytest.approx(most)
    elif preset in (
        "folded",
        "conditioned",
    ):  # whole channels: up to 5 % fewer numbers, and one window that does not fit
        assert ratio <= geometry.ratio * 1.001
        assert geometry.ratio <= ratio * 1.06 * (1 + geometry.grid * geometry.columns / geometry.stored)
    else:
        steps = geometry.filters - 1 if preset == "dfsnet" else 1
        smallest = geometry.dense / ((geometry.window + steps * geometry.grid) * geometry.columns)
        assert geometry.ratio == pytest.approx(min(ratio, smallest), rel=0.01)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize(
    "shape", [(1000, 784), (10, 1000), (7, 5, 3), (3, 3, 3, 3), (64, 4, 3, 3), (2, 1, 9), (1, 8), (6, 5, 2, 3, 2)]
)
@pytest.mark.parametrize("ratio", [1, 3.7, 1000])
def test_every_geometry_is_consistent(preset, shape, ratio):
    g = plan_geometry(spec(preset, ratio=ratio), shape)
    assert g.length >= g.window
    assert g.limit % g.grid == 0
    assert g.limit + g.window <= g.length
    assert g.windows * g.window * g.columns >= math.prod(shape[1:])
    assert (g.windows - 1) * g.window * g.columns < math.prod(shape[1:])  # no window is all crop


@pytest.mark.parametrize(
    "given",
    [spec("fsnet"), spec("fsnet", options={"strides": "any"}), spec("dfsnet"), spec("autosample", windows=1)],
    ids=str,
)
def test_filters_of_one_window_each_start_apart_at_any_ratio(given):
    layer = autosample.nn.SummaryLinear(1000, 10, spec=given, ratio=1000)
    assert layer.geometry.windows == 1  # a classifier whose classes share a filter cannot tell them apart
    assert len(layer.offsets.hardened()().unique()) == 10


def test_a_size_is_needed():
    with pytest.raises(AutosampleError, match="needs a size, got none: pass ratio=8"):
        plan_geometry(spec("wsnet"), (8, 8, 3))


def test_more_windows_than_channels_is_refused():
    with pytest.raises(AutosampleError, match="windows must be at most 8"):
        plan_geometry(spec("random", ratio=4, windows=9), (8, 8, 3))
