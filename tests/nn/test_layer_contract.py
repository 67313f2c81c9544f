"""The contract of a summary layer, for every preset × layer kind."""

import copy
import pickle

import pytest
import torch
from every_spec import PRESETS_WITH_WEIGHT
from torch import nn

from autosample import PRESETS, harden_
from autosample.nn import (
    SummaryConv1d,
    SummaryConv2d,
    SummaryConv3d,
    SummaryConvTranspose1d,
    SummaryConvTranspose2d,
    SummaryLayer,
    SummaryLinear,
    execution,
)
from autosample.sampling import Placement, random_signs
from autosample.sampling.windows import cut_windows

# name: (summary class, torch twin, positional arguments, keyword arguments, shape of an input)
KINDS = {
    "conv1d": (SummaryConv1d, nn.Conv1d, (8, 16, 9), {"padding": "same"}, (2, 8, 30)),
    "conv2d": (SummaryConv2d, nn.Conv2d, (8, 16, (3, 5)),
               {"padding": (1, 2), "padding_mode": "reflect"}, (2, 8, 9, 11)),
    "grouped": (SummaryConv2d, nn.Conv2d, (8, 16, 3), {"groups": 2, "bias": False}, (2, 8, 9, 9)),
    "pointwise": (SummaryConv2d, nn.Conv2d, (16, 32, 1), {}, (2, 16, 6, 6)),
    "dilated": (SummaryConv1d, nn.Conv1d, (8, 16, 5), {"dilation": 2, "padding": 4}, (2, 8, 30)),
    "strided": (SummaryConv2d, nn.Conv2d, (8, 16, 3), {"stride": (2, 1), "padding": 1}, (2, 8, 9, 9)),
    "conv3d": (SummaryConv3d, nn.Conv3d, (4, 8, (2, 3, 3)), {"padding": (0, 1, 1)}, (2, 4, 4, 5, 6)),
    "up1d": (SummaryConvTranspose1d, nn.ConvTranspose1d, (16, 8, 9), {"stride": 2, "padding": 1}, (2, 16, 15)),
    "up2d": (SummaryConvTranspose2d, nn.ConvTranspose2d, (16, 8, (3, 5)),
             {"stride": (2, 3), "output_padding": (1, 2), "bias": False}, (2, 16, 5, 4)),
    "up2d grouped": (SummaryConvTranspose2d, nn.ConvTranspose2d, (16, 8, 3),
                     {"groups": 2, "stride": 2, "padding": 1, "output_padding": 1, "dilation": 2}, (2, 16, 5, 4)),
    "linear": (SummaryLinear, nn.Linear, (40, 24), {}, (2, 3, 40)),
}  # fmt: skip
EVERY = [(preset, kind) for preset in PRESETS for kind in KINDS]
WITH_WEIGHT = [(preset, kind) for preset in ("dense", *PRESETS_WITH_WEIGHT) for kind in KINDS]


def build(preset, kind, **changes) -> SummaryLayer:
    face, _, args, kwargs, _ = KINDS[kind]
    # layers so small could not afford learned offsets
    learned = {"options": {"afford": 10}} if preset == "autosample" else {}
    return face(*args, **kwargs, spec=preset, ratio=4, **learned, **changes)


def example(kind, dtype=torch.float32):
    return torch.randn(KINDS[kind][4], dtype=dtype)


@pytest.mark.parametrize(("preset", "kind"), WITH_WEIGHT)
def test_it_computes_what_its_torch_twin_computes_with_its_weight(preset, kind):
    layer, (_, twin, args, kwargs, _) = build(preset, kind).eval(), KINDS[kind]
    dense = twin(*args, **kwargs)
    assert isinstance(layer, twin)
    assert layer.weight.shape == dense.weight.shape
    state = {"weight": layer.weight.detach()} | ({"bias": layer.bias.detach()} if layer.bias is not None else {})
    dense.load_state_dict(state)
    x = example(kind)
    with execution("materialize" if preset == "folded" else "auto"):
        assert torch.equal(layer(x), dense(x))
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("preset", "kind"), EVERY)
def test_training_lowers_a_loss_and_reaches_every_parameter(preset, kind):
    layer, x = build(preset, kind), example(kind)
    target = torch.randn_like(layer(x))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize(("preset", "kind"), WITH_WEIGHT)
def test_hardening_is_bounded_and_then_exact(preset, kind):
    layer, x = build(preset, kind), example(kind)
    _move(layer)
    layer.eval()
    before, bound = layer.weight.detach(), _hardening_bound(layer)
    layer.freeze_()
    frozen, out = layer.weight.detach(), layer(x)
    assert ((before - frozen).abs() <= bound + 1e-6).all()
    harden_(layer)
    assert torch.equal(layer.weight, frozen)
    assert torch.equal(layer(x), out)
    assert not any(isinstance(p, nn.Parameter) for p in layer.offsets.parameters())
    assert harden_(layer) is layer


def _move(layer):
    """Push learned offsets off the integers."""
    with torch.no_grad():
        for name, p in layer.offsets.named_parameters():
            if name in ("position", "centred"):
                p.add_(0.3 * torch.rand_like(p))
        if hasattr(layer.offsets, "routing"):
            layer.offsets.routing.mul_(0.9)


def _hardening_bound(layer):
    """`|o − round(o)| · |Φ[⌊o⌋+1 : ·] − Φ[⌊o⌋ : ·]|`, entry by entry: what rounding can change at most."""
    placement = layer.offsets.placement()
    if placement.weights is None or placement.weights.shape[-1] != 2:
        return 0.0
    low, high = (cut_windows(layer.summary, Placement(placement.base + j), layer.geometry.window) for j in (0, 1))
    return 0.5 * layer.geometry.to_weight((high - low).abs()).detach()


@pytest.mark.parametrize(("preset", "kind"), EVERY)
def test_copies_and_reloads_are_equal(preset, kind):
    layer, x = build(preset, kind).eval(), example(kind)
    _move(layer)
    fresh = build(preset, kind, seed=5).eval()  # another seed: the state must bring its own
    fresh.load_state_dict(layer.state_dict(), strict=True)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert torch.equal(twin(x), layer(x))
    layer.freeze_()
    fresh.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(fresh(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("preset", "kind"), EVERY)
def test_autocast(preset, kind, dtype):
    layer, x = build(preset, kind), example(kind)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    assert y.dtype == dtype
    y.float().square().mean().backward()
    assert torch.isfinite(layer.summary.grad).all()
    expected = layer.eval()(x)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("preset", "kind"), EVERY)
def test_half_precision_modules(preset, kind):
    layer = build(preset, kind)
    before = layer.offsets()
    layer.to(torch.bfloat16)
    assert torch.equal(layer.offsets(), before)
    layer(example(kind, torch.bfloat16)).float().sum().backward()
    assert layer.summary.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(("preset", "kind"), [(p, k) for p in PRESETS for k in ("conv1d", "linear")])
def test_functional_call_and_vmap(preset, kind):
    """Per-example gradients, and an ensemble of layers in one call."""
    layer, x = build(preset, kind).eval(), example(kind)
    state = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, one):
        return torch.func.functional_call(layer, parameters, (one[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, x)
    expected = torch.stack([torch.func.grad(loss)(state, one)["summary"] for one in x])
    torch.testing.assert_close(each["summary"], expected)


@pytest.mark.parametrize("columns", ["shuffle", "table"])
@pytest.mark.parametrize("preset", ["wsnet", "random", "autosample"])
def test_channel_selection(preset, columns):
    layer = build(preset, "conv1d", columns=columns, windows=2)
    x = example("conv1d")
    table = layer.columns.table()
    q = layer.geometry.columns
    offsets = layer.offsets()
    for n, m in ((0, 0), (3, 5), (15, 7)):
        column = table[m // q, m % q]
        rows = offsets[n, m // q] + torch.arange(9)
        torch.testing.assert_close(layer.weight[n, m], layer.summary[rows, column])
    layer(x).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.eval()
    before = layer(x)
    harden_(layer)
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", ["random", "wsnet", "fsnet"])
def test_signs_multiply_windows(preset):
    plain, layer = build(preset, "conv2d"), build(preset, "conv2d", signs="random")
    with torch.no_grad():
        plain.summary.copy_(layer.summary)
    factors = layer.geometry.to_windows(layer.weight / plain.weight)
    each = factors[:, :, :1, :1]
    assert torch.equal(factors, each.expand_as(factors))
    signs = random_signs(layer.sign_seed, *each.shape[:2], torch.float32)
    assert torch.equal(each[:, :, 0, 0], signs)
    assert {*signs.unique().tolist()} == {-1.0, 1.0}


@pytest.mark.parametrize("preset", ["autosample", "dfsnet", "kmeans", "random"])
def test_meta_layers_have_a_shape_and_a_size(preset):
    layer = build(preset, "conv1d", device="meta")
    assert layer.weight.shape == (16, 8, 9)
    assert all(tensor.is_meta for tensor in layer.stored().values())


def test_an_average_of_models_notices_the_freeze():
    layer = build("autosample", "conv1d")
    average = copy.deepcopy(layer).eval()
    layer.offsets.position.data += 3
    layer.freeze_()
    for mine, theirs in zip(average.buffers(), layer.buffers(), strict=True):
        mine.copy_(theirs)
    average.summary.data.copy_(layer.summary)
    average.eval()
    assert torch.equal(average.weight, layer.weight)
    assert torch.equal(harden_(average).offsets(), layer.offsets())


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "kind"), EVERY)
def test_compile_fullgraph(preset, kind):
    _check_compiled(preset, kind)


@pytest.mark.parametrize(("preset", "kind"), [("wsnet", "conv1d"), ("autosample", "conv2d"), ("folded", "linear")])
def test_compile_fullgraph_of_each_mechanism(preset, kind):
    _check_compiled(preset, kind, "aot_eager")


def _check_compiled(preset, kind, backend="inductor"):
    torch._dynamo.reset()
    layer, x = build(preset, kind), example(kind)
    _move(layer)  # an offset has no derivative at an integer
    twin = copy.deepcopy(layer)
    layer.compile(fullgraph=True, backend=backend)
    out, expected = layer(x), twin(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)
    assert not any("_orig_mod" in name for name in layer.state_dict())
