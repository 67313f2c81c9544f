"""Equal bytes: what is asked for is met within 1 %, for the net as it is really stored."""

import pytest

from autosample.budget.sizes import fit_budget, stored_bytes
from autosample.errors import ConfigError, NothingToConvert
from autosample.model.convert import convert_layers_
from autosample.model.report import report
from autosample.models import create
from autosample.sampling.spec import PRESETS, spec

SAMPLING = [name for name in PRESETS if name not in ("dense", "kmeans")]


def net(name):
    return create(name, num_classes=10)


@pytest.mark.parametrize("preset", SAMPLING)
@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("digitnet", 32),
        pytest.param("wave4", 16, marks=pytest.mark.slow),
        pytest.param("mlp784", 8, marks=pytest.mark.slow),
    ],
)
@pytest.mark.every(3)
def test_within_one_percent_on_the_real_net(preset, name, ratio):
    target = stored_bytes(net(name)) / ratio
    fit = fit_budget(net(name), preset, target)
    model = net(name)
    convert_layers_(model, preset, ratio=fit.ratio, overrides=fit.overrides)
    assert report(model).stored_bytes == fit.reached
    assert fit.reached == pytest.approx(target, rel=0.01)


def test_offsets_leave_less_to_the_summary():
    target = stored_bytes(net("digitnet")) / 16
    random, learned = (
        fit_budget(net("digitnet"), spec("autosample", options={"afford": share}), target).ratio for share in (0, 0.1)
    )
    assert learned > random


@pytest.mark.parametrize("preset", ["fsnet", "wsnet"])
def test_whole_strides_give_way_where_they_cannot_meet_it(preset):
    include = ["stages.0.fc", "head.fc"]
    target = stored_bytes(net("mlp784")) / 64
    with pytest.raises(ConfigError, match=r"no ratio stores 49,688 bytes within 1.00%, the nearest size is"):
        fit_budget(net("mlp784"), preset, target, include=include, overrides={"head.fc": {}})
    fit = fit_budget(net("mlp784"), preset, target, include=include)
    assert fit.reached == pytest.approx(target, rel=0.01)
    assert all(change["options"]["strides"] == "any" for change in fit.overrides.values())


def test_folds_that_cannot_store_a_size_with_fewer_columns_share_windows_instead():
    """784 features in 61 groups of 13 or in 66 of 12: without shared windows, bytes jump from too many to too few."""
    include, target = ["stages.0.fc", "head.fc"], stored_bytes(net("mlp784")) / 64
    fit = fit_budget(net("mlp784"), "folded", target, include=include)
    assert fit.reached == pytest.approx(target, rel=0.01)
    model = net("mlp784")
    convert_layers_(model, "folded", ratio=fit.ratio, include=include, overrides=fit.overrides)
    assert report(model).stored_bytes == fit.reached
    first = model.get_submodule("stages.0.fc")
    assert first.summary.shape[0] < 1000


def test_the_first_solution_from_the_dense_end_is_taken():
    # far out, learned windows of this layer need so many offsets that bytes grow again
    include = ["stages.0.fc"]
    dear = {"preset": "random", "rule": "interpolated"}
    assert stored_bytes(net("mlp784"), spec=dear, ratio=1e6, include=include) > 140_000
    assert fit_budget(net("mlp784"), dear, 95_000, include=include).ratio < 100


@pytest.mark.parametrize(
    ("target", "message"),
    [(0, "above 0 bytes, got 0"), (5_000, "be between [0-9,]+ and 1,118,928 bytes, got 5,000")],
)
def test_out_of_reach(target, message):
    with pytest.raises(ConfigError, match=message):
        fit_budget(net("digitnet"), "random", target)
    with pytest.raises(ConfigError, match="got dense"):
        fit_budget(net("digitnet"), "dense", 50_000)


def test_a_dense_model_that_is_small_enough_stays():
    with pytest.raises(NothingToConvert, match=r"below the 1,118,928 bytes of the dense model, got 1,118,928: use the"):
        fit_budget(net("digitnet"), "random", 1_118_928)
    assert fit_budget(net("digitnet"), "random", 1_118_927, tolerance=None).reached < 1_118_927


@pytest.mark.parametrize("preset", list(PRESETS))
def test_bytes_on_the_meta_device_are_those_of_the_real_net(preset):
    if preset == "dense":
        return
    model = net("digitnet")
    convert_layers_(model, preset, ratio=20)
    found = {stored_bytes(net("digitnet"), spec=preset, ratio=20) for _ in range(5)}
    assert found == {report(model).stored_bytes}
