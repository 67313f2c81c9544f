"""Numbers shared by the root of weights: against the closed form, a numerical optimum, and on real nets."""

import itertools
import math

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from autosample import convert_, quantize_, report, spec
from autosample.models import create
from autosample.nn import compressed_layers
from autosample.sampling.sharing import root_ratios

pytestmark = pytest.mark.filterwarnings("ignore:include pattern .* converts no layer")


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=12), st.floats(1, 1000))
def test_the_numbers_asked_for_are_given_out_in_proportion_to_roots(weights, ratio):
    ratios = root_ratios(weights, ratio)
    numbers = [count / r for count, r in zip(weights, ratios, strict=True)]
    assert sum(numbers) == pytest.approx(sum(weights) / ratio)
    assert min(ratios) >= 1
    # one price for a unit of root in all layers that are not kept whole, and whole layers are worth no more
    prices = [n / math.sqrt(count) for n, count, r in zip(numbers, weights, ratios, strict=True) if r > 1]
    whole = [math.sqrt(count) for count, r in zip(weights, ratios, strict=True) if r == 1]
    assert prices == pytest.approx([prices[0]] * len(prices)) if prices else True
    assert max(whole, default=0) <= min(prices, default=math.inf) * (1 + 1e-9)


def test_it_is_the_least_sum_of_ratios():
    """Against scipy: where a layer's cost is its ratio, no other shares of the same numbers cost less."""
    weights, ratio = [300.0, 10_000.0, 40_000.0, 1_000_000.0], 12.0
    total = sum(weights) / ratio
    found = minimize(
        lambda n: sum(count / x for count, x in zip(weights, n, strict=True)),
        x0=[total * count / sum(weights) for count in weights],
        bounds=[(1e-3, count) for count in weights],
        constraints={"type": "eq", "fun": lambda n: sum(n) - total},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert sum(root_ratios([int(w) for w in weights], ratio)) == pytest.approx(found.fun, rel=1e-4)


def test_a_net_stores_the_same_in_all_and_its_layers_do_not():
    nets = {share: timm.create_model("resnet18", num_classes=10) for share in ("even", "root")}
    totals = {share: convert_(net, "random", ratio=8, share=share).stored_bytes for share, net in nets.items()}
    assert totals["root"] == pytest.approx(totals["even"], rel=0.01)
    large, small = (compressed_layers(nets["root"])[name].geometry for name in ("layer4.1.conv2", "layer1.0.conv1"))
    assert large.ratio / small.ratio == pytest.approx(math.sqrt(large.dense / small.dense), rel=0.01)
    assert nets["root"].layer1[0].conv1.spec.share == "even"  # its ratio is its own now


def test_sizes_of_their_own_take_no_part():
    def ratios(**options):
        net = create("digitnet", num_classes=10)
        convert_(net, "random", ratio=8, share="root", **options)
        return {name: layer.geometry.ratio for name, layer in compressed_layers(net).items()}

    shared = ratios()
    given = ratios(overrides={"stages.4": {"ratio": 3}})
    assert given["stages.4.conv"] == pytest.approx(3, rel=0.02)
    assert shared["stages.4.conv"] > 8
    whole = spec("random", ratio=3, share="root")
    for change in (whole, {"preset": "random", "ratio": 3, "share": "even"}, {"preset": "random", "ratio": 3}):
        assert ratios(overrides={"stages.4": change})["stages.4.conv"] == pytest.approx(3, rel=0.02)
    kept = ratios(by_kind={"conv2d": {"ratio": 5}})
    assert all(ratio == pytest.approx(5, rel=0.02) for ratio in kept.values())
    compact = create("digitnet", num_classes=10)
    convert_(compact, "wsnet", options={"spatial": 3, "channel": 2}, share="root")
    assert all(layer.spec.settings.spatial == 3 for layer in compressed_layers(compact).values())


def test_a_layer_by_itself_has_nothing_to_share():
    layer = nn.Conv2d(64, 64, 3)
    convert_(layer, "random", ratio=8, share="root")
    assert layer.geometry.ratio == pytest.approx(8, rel=0.01)  # pyright: ignore


@pytest.mark.parametrize("preset", ["wsnet", "hashednet", "random", "autosample"])
def test_with_few_bits_a_layer_whose_share_holds_all_its_weights_has_them_at_these_bits(preset):
    net = create("freshnet", num_classes=10)
    dense = net.head.fc.weight.detach().clone()
    options = {"include": ["stages", "head.fc"], "warm_start": True}
    convert_(net, spec(preset, ratio=2, share="root"), planned_bits=4, **options)
    layer = net.head.fc
    assert torch.equal(layer.weight, dense)  # nothing is shared within it, nor rearranged
    assert {r.note for r in report(net).rows if r.name == "head.fc"} == {"whole"}
    assert all(not r.note.startswith("too small") for r in report(net).rows)
    quantize_(net, bits=4, rest="fp16")
    row = next(r for r in report(net).rows if r.name == "head.fc")
    assert row.stored_bytes == pytest.approx(dense.numel() / 2, rel=0.02)
    back = create("freshnet", num_classes=10)
    convert_(back, spec(preset, ratio=2, share="root"), include=options["include"])  # of 32 bits each: left dense
    assert type(back.head.fc) is nn.Linear


def test_bytes_follow_the_ratio_without_jumps_where_bits_are_few():
    def size(ratio):
        net = create("freshnet", num_classes=10)
        convert_(net, spec("random", ratio=ratio, share="root"), planned_bits=4, include=["stages", "head.fc"])
        return quantize_(net, bits=4, rest="fp16").after

    sizes = [size(1.6 * 1.05**step) for step in range(20)]
    assert all(1.02 < a / b < 1.08 for a, b in itertools.pairwise(sizes))


def test_learned_offsets_only_where_they_are_affordable():
    def rules(afford=0.1, bits=32, **changes):
        net = create("wave4", num_classes=10)
        convert_(net, spec("autosample", ratio=64, share="even", **changes), planned_bits=bits)
        layers = compressed_layers(net).values()
        for layer in layers:
            cost = layer.offsets.stored_bits() if layer.spec.rule != "random" else 0
            assert cost <= afford * bits * layer.summary.numel()
            assert "afford" not in layer.spec.options  # decided for good: saving and loading does not change it
        notes = {r.name: r.note for r in report(net).rows}
        for name, layer in compressed_layers(net).items():
            assert notes[name] == ("random offsets" if layer.spec.rule == "random" else "")
        return [layer.spec.rule for layer in layers]

    assert set(rules()) == {"random"}
    assert set(rules(5.0, options={"afford": 5.0})) == {"interpolated"}
    some = {"options": {"afford": 0.6}}
    assert rules(0.6, **some) != rules(0.6, bits=4, **some)  # an offset weighs more against numbers of few bits


def test_the_preset_learns_offsets_in_linear_layers_alone():
    for name, expected in {"freshnet": {"head.fc"}, "soundnet8": set(), "mlp784": {"stages.0.fc"}}.items():
        net = create(name, num_classes=10)
        convert_(net, "autosample", ratio=8, include=["stages", "head.fc"])
        learned = {layer for layer, module in compressed_layers(net).items() if module.spec.rule == "interpolated"}
        assert learned == expected, name
