"""The audio nets: counts from the layer tables, lengths, and errors."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autosample.errors import AutosampleError, ConfigError, DataError
from autosample.models import ConvStack1d

# (taps, in, out) as the papers print them
SOUNDNET8 = [
    (64, 1, 16),
    (32, 16, 32),
    (16, 32, 64),
    (8, 64, 128),
    (4, 128, 256),
    (4, 256, 512),
    (4, 512, 1024),
    (8, 1024, 1401),
]
MUSICDET = [
    (32, 1, 32),
    (32, 32, 64),
    (16, 64, 128),
    (8, 128, 128),
    (8, 128, 256),
    (8, 256, 512),
    (4, 512, 512),
]
WAVE4 = [(64, 1, 32), (32, 32, 64), (16, 64, 128), (8, 128, 256)]


def weights(table: list[tuple[int, int, int]]) -> int:
    return sum(taps * a * b for taps, a, b in table)


def group(fan_in: int, width: int, depth: int) -> list[tuple[int, int, int]]:
    return [(3, fan_in, width)] + [(3, width, width)] * (depth - 1)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def convs(net: nn.Module) -> list[nn.Conv1d]:
    return [m for m in net.modules() if isinstance(m, nn.Conv1d)]


def mult_adds(net: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(x)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("name", "table"), [("soundnet8", SOUNDNET8), ("musicdet", MUSICDET), ("wave4", WAVE4)])
def test_conv_tables(name, table):
    net = timm.create_model(name)
    assert isinstance(net, ConvStack1d)
    assert [(c.kernel_size[0], c.in_channels, c.out_channels) for c in convs(net)] == table


def test_soundnet8_counts_and_lengths():
    net = timm.create_model("soundnet8", num_classes=50)
    assert weights(SOUNDNET8) == 14_345_216  # 14.35 M
    assert all(c.bias is None and c.stride == (2,) for c in convs(net))
    norms = 2 * sum(n for *_, n in SOUNDNET8)
    assert count(net) == weights(SOUNDNET8) + norms + 1401 * 50 + 50
    with torch.no_grad():
        net.eval()
        assert net.forward_features(torch.zeros(1, 1, 110250)).shape == (1, 1401, 3)  # 5 s at 22.05 kHz
        assert net.forward_features(torch.zeros(1, 1, 8000)).shape == (1, 1401, 1)  # 1 s at 8 kHz
    assert net.feature_info[-1]["reduction"] == 2**8 * 8 * 8 * 4


def test_musicdet_counts_match_the_paper():
    net = timm.create_model("musicdet")
    linear = [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
    assert linear == [(1536, 256), (256, 128), (128, 2)]
    total = weights(MUSICDET) + sum(a * b for a, b in linear)
    assert total == 3_114_240  # 3.11 M
    widths = [n for *_, n in MUSICDET]
    assert count(net) == total + 3 * sum(widths) + 256 + 128 + 2  # conv bias and norm, linear bias
    x = torch.zeros(1, 1, 64000)
    assert net.eval().forward_features(x).shape == (1, 512, 3)
    lengths = [64000 // 4**i // 2 for i in range(7)]
    expected = sum(t * a * b * n for (t, a, b), n in zip(MUSICDET, lengths, strict=True))
    expected += sum(a * b for a, b in linear)
    assert mult_adds(net, x) == expected
    assert expected == pytest.approx(0.96e9, rel=0.005)


@pytest.mark.parametrize("samples", [16384, 40000, 100000])
def test_musicdet_takes_other_lengths(samples):
    net = timm.create_model("musicdet").eval()
    assert net(torch.randn(1, 1, samples)).shape == (1, 2)


def test_musicdet_norm_follows_relu():
    stage = timm.create_model("musicdet").eval().stages[0]
    x = torch.randn(1, 1, 200)
    expected = stage.pool(stage.norm(stage.conv(x).relu()))
    torch.testing.assert_close(stage(x), expected)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("m3", [(80, 1, 256), (3, 256, 256)]),
        ("m5", [(80, 1, 128), (3, 128, 128), (3, 128, 256), (3, 256, 512)]),
        (
            "m11",
            [(80, 1, 64), *group(64, 64, 2), *group(64, 128, 2), *group(128, 256, 3), *group(256, 512, 2)],
        ),
        (
            "m18",
            [(80, 1, 64), *group(64, 64, 4), *group(64, 128, 4), *group(128, 256, 4), *group(256, 512, 4)],
        ),
    ],
)
def test_very_deep_nets_have_the_published_sizes(name, table):
    net = timm.create_model(name, num_classes=10)
    assert [(c.kernel_size[0], c.in_channels, c.out_channels) for c in convs(net)] == table
    published = {"m3": 0.2e6, "m5": 0.5e6, "m11": 1.8e6, "m18": 3.7e6}[name]
    assert abs(count(net) - published) < 0.08e6
    last = table[-1][-1]
    assert count(net) == weights(table) + 2 * sum(n for *_, n in table) + last * 10 + 10


def test_wave4_counts():
    net = timm.create_model("wave4")
    assert count(net) == weights(WAVE4) + 2 * 480 + 2570 == 464_330
    lengths = [2001, 501, 126, 32]  # an even kernel padded by half of it gives one position more
    expected = sum(t * a * b * n for (t, a, b), n in zip(WAVE4, lengths, strict=True)) + 2560
    assert mult_adds(net, torch.zeros(1, 1, 8000)) == expected


@pytest.mark.parametrize("name", ["soundnet8", "musicdet", "m5", "m18", "wave4"])
def test_shortest_input_is_exact_and_said(name):
    net = timm.create_model(name).eval()
    least = net.min_input_size
    with torch.no_grad():
        assert net(torch.randn(1, 1, least)).isfinite().all()
        with pytest.raises(DataError, match=f"at least {least} samples"):
            net(torch.randn(1, 1, least - 1))


def test_short_input_to_a_feature_extractor():
    net = timm.create_model("musicdet", features_only=True, out_indices=(0, 1))
    assert len(net(torch.randn(1, 1, 20))) == 2  # enough for two stages, not for seven
    with pytest.raises(DataError, match="at least 16 samples"):
        net(torch.randn(1, 1, 15))


@pytest.mark.parametrize("shape", [(2, 8000), (8000,), (2, 3, 8000), (2, 1, 1, 8000)])
def test_wrong_shape_is_refused(shape):
    with pytest.raises(DataError, match=r"takes \[B, 1, T\]"):
        timm.create_model("wave4")(torch.zeros(shape))


def test_pools():
    x = torch.randn(2, 1, 1000)
    net = timm.create_model("wave4", num_classes=0, global_pool="").eval()
    with torch.no_grad():
        maps = net(x)
        assert maps.ndim == 3
        net.reset_classifier(0, "max")
        torch.testing.assert_close(net(x), maps.amax(2))
        assert net.global_pool == "max"
        net.reset_classifier(0, "avg")
        torch.testing.assert_close(net(x), maps.mean(2))
    net = timm.create_model("musicdet", global_pool="max").eval()
    assert net(torch.randn(1, 1, 70000)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("wave4", {"global_pool": "median"}, "must be one of"),
        ("wave4", {"global_pool": ""}, "num_classes=0"),
        ("musicdet", {"global_pool": "", "num_classes": 0}, "must be one of"),
        ("wave4", {"num_classes": -1}, "num_classes >= 0"),
        ("wave4", {"in_chans": 0}, "in_chans >= 1"),
        ("wave4", {"drop_rate": 1.0}, "drop_rate < 1"),
        ("wave4", {"features_only": True, "out_indices": (0, 4)}, "out_indices of wave4 must be from -4 to 3"),
    ],
)
def test_bad_arguments(name, kwargs, message):
    with pytest.raises(ConfigError, match=message) as info:
        timm.create_model(name, **kwargs)
    assert isinstance(info.value, AutosampleError)
    assert "\n" not in str(info.value)
