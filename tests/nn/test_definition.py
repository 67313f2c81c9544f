"""Every way to compute a layer equals `F.conv(x, layer.weight)`, for options of layers and specs drawn at random."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autosample
from autosample.errors import AutosampleError
from autosample.nn import execution
from autosample.reuse import fused

CONVS = {1: F.conv1d, 2: F.conv2d}


def drawn(seed: int) -> tuple[nn.Module, dict, Tensor]:
    """A layer, a spec and an input."""
    pick = random.Random(seed)
    rank = pick.choice([1, 2])
    groups = pick.choice([1, 1, 1, 2, 4])
    kernel = [pick.choice([1, 2, 3, 5, 8]) for _ in range(rank)]
    mode = pick.choice(["zeros", "zeros", "zeros", "reflect", "circular", "replicate"])
    face = nn.Conv1d if rank == 1 else nn.Conv2d
    layer = face(
        4 * pick.choice([1, 2, 4]),
        4 * pick.choice([2, 3, 8]),
        tuple(kernel),
        stride=tuple(pick.choice([1, 1, 2, 3]) for _ in range(rank)),
        padding=pick.choice([tuple(pick.choice([0, 1, k // 2]) for k in kernel)] * 9 + ["same"]),
        dilation=tuple(pick.choice([1, 1, 2]) for _ in range(rank)),
        groups=groups,
        bias=pick.random() < 0.5,
        padding_mode=mode,
    )
    spec: dict = {"preset": pick.choice(["wsnet", "fsnet", "random", "hashednet", "autosample", "dfsnet", "kmeans"])}
    spec["ratio"] = pick.choice([2, 3, 4, 8])
    for name, values in (
        ("denser", [1, 1, 1, 2, 3]),
        ("signs", ["none", "none", "random"]),
        ("columns", ["tile", "tile", "shuffle", "table"]),
        ("layout", ["auto", "taps", "flat"]),
        ("windows", [None, None, 2, 4]),
    ):
        spec[name] = pick.choice(values)
    size = [pick.choice([9, 16, 33]) for _ in range(rank)]
    return layer, spec, torch.randn(pick.choice([1, 2, 5]), layer.in_channels, *size)


def defined(layer: nn.Module, x: Tensor) -> Tensor:
    """The convolution with the weight that the layer shows, in float64."""
    x, weight = x.double(), layer.weight.detach().double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    rank = x.dim() - 2
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    elif layer.padding == "same":  # torch warns if it has to pad one side more than the other
        x = F.pad(x, layer._reversed_padding_repeated_twice)
    else:
        return CONVS[rank](x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return CONVS[rank](x, weight, bias, layer.stride, 0, layer.dilation, layer.groups)


def check(seed: int) -> str:
    """Compare all ways for one draw; returns the plan that was used, or why there was nothing to compare."""
    torch.manual_seed(seed)
    try:
        layer, spec, x = drawn(seed)
        autosample.convert_(layer, spec)
        autosample.harden_(layer.eval())
        plain = nn.Conv1d if x.dim() == 3 else nn.Conv2d
        expected = defined(layer, x)
    except (AutosampleError, RuntimeError, ValueError) as error:  # torch refuses some, and some would not shrink
        return type(error).__name__
    assert isinstance(layer, plain)
    scale = float(expected.abs().max()) + 1e-6
    found = {}
    for way in ("materialize", "reuse", "auto"):
        with execution(way), torch.no_grad():
            found[way] = layer(x)
    for fuse in (False, True) if fused.available() else (False,):
        fast = autosample.deploy(layer, x, measure=False, fuse=fuse)
        found[f"deployed, kernel {fuse}"] = fast(x)
    for way, got in found.items():
        error = float((got.double() - expected).abs().max()) / scale
        assert error < 1e-4, (seed, spec, layer, way, error)
    return fast.deployment.rows[0].plan.kind


def test_a_sample():
    kinds = [check(seed) for seed in range(60)]
    assert len(set(kinds)) >= 4
    assert sum(kind[0].isupper() for kind in kinds) < 30  # so many draws were refused


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_many():
    for seed in range(1000, 4000):
        check(seed)


@pytest.mark.parametrize("fuse", [False, True])
def test_groups_and_mixed_filters(fuse):
    """A mixed filter sees the input of its own group only."""
    layer = nn.Conv1d(8, 16, 6, groups=2)
    autosample.convert_(layer, "wsnet", ratio=2, denser=2)
    layer.eval()
    x = torch.randn(2, 8, 40)
    expected = defined(layer, x)
    fast = autosample.deploy(layer, x, measure=False, fuse=fuse)
    for got in (layer(x), fast(x)):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    with execution("reuse"):
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-5)


def test_deploy_compares_with_the_definition(monkeypatch):
    """A wrong plan is found, also if the layer itself computes in the same wrong way."""
    from autosample.reuse import ops

    layer = nn.Conv1d(64, 256, 16)
    autosample.convert_(layer, "wsnet", ratio=8)
    whole = ops.convolve
    monkeypatch.setattr(ops, "convolve", lambda *args, **options: whole(*args, **options) + 1)
    x = torch.randn(1, 64, 400)
    with execution("reuse"), pytest.raises(AutosampleError, match="deploying changed the outputs"):
        autosample.deploy(layer.eval(), x, measure=False, fuse=False)
