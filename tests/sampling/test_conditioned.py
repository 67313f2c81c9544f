"""Rule `conditioned`: a learner mixes the folds of several blocks for each example."""

import copy

import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import hadamard
from torch import nn

import autosample
from autosample.coding.fixed import at_steps
from autosample.errors import ConversionError, SpecError
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryConvTranspose1d, SummaryLinear
from autosample.nn.stored import compact_state

# name: (class, arguments, keyword arguments, ratio, shape of an input, convolution of torch)
LAYERS = {
    "grouped": (SummaryConv1d, (12, 16, 3), {"groups": 2, "padding": 1}, 4, (3, 12, 9), F.conv1d),
    "uneven": (SummaryConv2d, (7, 10, 3), {"stride": 2, "padding": 1, "padding_mode": "reflect"}, 3, (3, 7, 6, 5),
               F.conv2d),
    "overlapping": (SummaryConv1d, (8, 12, 16), {"bias": False}, 16, (2, 8, 40), F.conv1d),
    "linear": (SummaryLinear, (24, 16), {}, 4, (3, 5, 24), F.linear),
}  # fmt: skip


def build(kind: str, **options):
    """A layer whose learner mixes, with an input, in float64."""
    face, args, more, ratio, shape, _ = LAYERS[kind]
    torch.manual_seed(0)
    layer = face(*args, **more, spec="conditioned", ratio=ratio, share="even", options=options).double()
    return mixing(layer), torch.randn(shape, dtype=torch.float64)


def mixing(layer):
    """The layer after some training, as it were."""
    nn.init.normal_(layer.offsets.mixture.chooser)
    return layer


def weight_of(layer, means: torch.Tensor) -> torch.Tensor:
    """The weight for an example whose channels have these means, number by number from the definition."""
    g, phi = layer.geometry, layer.summary.detach()
    reader, chooser = (at_steps(getattr(layer.offsets.mixture, name).double()) for name in ("reader", "chooser"))
    order = 1 << (g.windows - 1).bit_length()
    signs = hadamard(order)
    each = [means[q * g.columns : (q + 1) * g.columns] for q in range(g.windows)]
    strengths = torch.stack([part.sum() / g.columns for part in each])
    strengths = (strengths - strengths.mean()) / (strengths.var(unbiased=False) + 1e-5).sqrt()
    hidden = (reader @ strengths).clamp_min(0)
    shares = [1.0, *torch.tanh(chooser[:, :-1] @ hidden + chooser[:, -1]).tolist()]
    filters = g.filters // getattr(layer, "groups", 1)
    blocks = min(order, filters)
    weight = torch.empty(g.filters, g.channels, g.taps, dtype=torch.float64)
    places = (g.length - g.taps) // g.grid + 1
    for n in range(g.filters):
        block = n % filters * blocks // filters
        for m in range(g.channels):
            sign = sum(share * signs[(block + e) % order, m // g.columns] for e, share in enumerate(shares))
            first = n % places * g.grid
            weight[n, m] = sign * phi[first : first + g.taps, m % g.columns]
    return weight.view(layer.shape)


def defined(layer, x: torch.Tensor, run) -> torch.Tensor:
    """The output, example by example and group by group, each with a weight of its own."""
    outputs = []
    for one in x:
        if run is F.linear:
            outputs.append(F.linear(one, weight_of(layer, one.mean(0)), layer.bias))
            continue
        each, parts = layer.geometry.filters // layer.groups, []
        padded = one[None]
        if layer.padding_mode != "zeros":
            padded = F.pad(padded, layer._reversed_padding_repeated_twice, layer.padding_mode)
        padding = layer.padding if layer.padding_mode == "zeros" else 0
        for part in range(layer.groups):
            m = layer.geometry.channels
            weight = weight_of(layer, one[part * m : (part + 1) * m].flatten(1).mean(1))
            rows = slice(part * each, (part + 1) * each)
            bias = None if layer.bias is None else layer.bias[rows]
            parts.append(run(padded[:, part * m : (part + 1) * m], weight[rows], bias, layer.stride, padding))
        outputs.append(torch.cat(parts, 1)[0])
    return torch.stack(outputs)


@pytest.mark.parametrize("kind", LAYERS)
def test_every_example_has_the_weight_of_the_definition(kind):
    layer, x = build(kind, experts=3, hidden=5)
    with torch.no_grad():
        expected = defined(layer, x, LAYERS[kind][-1])
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer(x[:1])[0], expected[0])
        if kind != "linear":
            torch.testing.assert_close(layer(x[0]), expected[0])  # without a batch
        fast = autosample.deploy(layer, x, measure=False, fuse=False)
        torch.testing.assert_close(fast(x), expected)
        torch.testing.assert_close(autosample.harden_(layer)(x), expected)
    assert fast.deployment.rows[0].plan.kind == "folded"


@pytest.mark.parametrize("kind", ["grouped", "linear"])
def test_it_starts_as_its_folded_twin_and_learns(kind):
    face, args, more, ratio, shape, _ = LAYERS[kind]
    layer = face(*args, **more, spec="conditioned", ratio=ratio)
    twin = face(*args, **more, spec="folded", ratio=ratio)
    twin.load_state_dict({k: v for k, v in layer.state_dict().items() if "mixture" not in k})
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), twin(x))
    target = torch.randn_like(layer(x))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        (loss := (layer(x) - target).square().mean()).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad.any() for p in layer.parameters())


def test_gradients_are_those_of_the_definition():
    layer, x = build("uneven")
    x.requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)
    parameters = dict(layer.named_parameters())

    def loss(own, one):
        return torch.func.functional_call(layer, own, (one[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x.detach())
    for name, got in each.items():
        expected = torch.stack([torch.func.grad(loss)(parameters, one)[name] for one in x.detach()])
        torch.testing.assert_close(got, expected)


def test_the_learner_computes_outside_autocast():
    layer, x = build("linear")
    layer, x = layer.float(), x.float()
    matrix = {}
    layer.offsets.mixture.register_forward_hook(lambda module, args, out: matrix.update({out.dtype: out}))
    plain = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    assert list(matrix) == [torch.float32]
    torch.testing.assert_close(half.float(), plain, rtol=0.05, atol=0.05)


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(12, 32, 3, padding=1, bias=False, padding_mode="circular"), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 16),
    )  # fmt: skip


def mixed_net() -> nn.Sequential:
    torch.manual_seed(1)
    model = net()
    autosample.convert_(model, "conditioned", ratio=6)
    for layer in autosample.nn.compressed_layers(model).values():
        mixing(layer)
    return model.eval()


def test_it_is_saved_at_the_bits_that_are_reported_and_loads_equal(tmp_path):
    model, x = mixed_net(), torch.randn(3, 12, 6, 6)
    told = autosample.report(model, x)
    autosample.save(model, tmp_path, factory=net)
    autosample.harden_(model)
    loaded = autosample.load(tmp_path, factory=net)
    assert torch.equal(loaded(x), model(x))
    state = compact_state(loaded)
    assert told.stored_bytes == autosample.report(loaded).stored_bytes == sum(t.nbytes for t in state.values())
    for name, layer in autosample.nn.compressed_layers(loaded).items():
        learner = [t for key, t in state.items() if key.startswith(f"{name}.offsets.")]
        windows, order = layer.geometry.windows, 1 << (layer.geometry.windows - 1).bit_length()
        assert sum(t.numel() for t in learner) == 4 * windows + (min(4, order) - 1) * 5
        assert layer.facts().position_bits == 8 * sum(t.nbytes for t in learner)
    # what it computes: signed sums (of the padded map), the convolution by block, and the learner
    g, row = model[0].geometry, told.rows[0]
    blocks = 1 << (g.windows - 1).bit_length()
    mixing_macs = 3 * (4 * g.windows + 3 * 4 + 4 * blocks * g.windows)
    assert row.macs == 3 * 36 * torch.Size(model[0].shape).numel()  # of the dense layer
    assert row.additions == row.multiplications
    assert row.multiplications == 3 * 36 * 32 * 9 * g.columns + 3 * 64 * blocks * g.windows * g.columns + mixing_macs


@pytest.mark.parametrize("form", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_it_is_exported(form, tmp_path):
    """Files are run, and compared with torch at other batch sizes, before they are kept."""
    write = autosample.export_onnx if form == "onnx" else autosample.export_pt2
    model, channels = mixed_net(), 12
    if form == "onnx":  # its exporter is slow
        model, channels = nn.Sequential(model[3]), 32
    done = write(model, tmp_path / f"model.{form}", torch.randn(1, channels, 6, 6))
    assert done.error < 1e-5
    assert set(done.forms.values()) == {"signed"}


def test_what_needs_one_weight_refuses_it(tmp_path):
    model, x = mixed_net(), torch.randn(1, 12, 6, 6)
    before = {name: type(module) for name, module in model.named_modules()}
    for refused in (
        lambda: model[0].weight,
        lambda: autosample.densify_(model),
        lambda: autosample.export_onnx(model, tmp_path / "dense.onnx", x, dense=True),
    ):
        with pytest.raises(ConversionError, match=r"a weight for each example, got .*: call the layer, or") as caught:
            refused()
        assert len(str(caught.value)) < 300
    assert {name: type(module) for name, module in model.named_modules()} == before
    with pytest.raises(RuntimeError, match="cannot compute an input of shape"):
        model[0](torch.randn(1, 11, 6, 6))
    model[3].register_forward_hook(lambda *args: None)
    with pytest.raises(ConversionError, match="got one with hooks"):
        autosample.deploy(model, x, measure=False)
    with pytest.raises(SpecError, match="experts must be a whole number of at least 2, got 1"):
        autosample.spec("conditioned", options={"experts": 1})


def test_layers_that_cannot_mix_have_one_weight():
    for layer in (
        SummaryConvTranspose1d(8, 16, 3, spec="conditioned", ratio=4),
        SummaryConv1d(8, 16, 3, spec="conditioned", ratio=4, signs="random"),
        SummaryLinear(8, 16, spec="conditioned", ratio=4, windows=1),
    ):
        assert layer.has_weight
        assert layer.weight.shape == layer.shape
        assert "one mixture of folds for all examples" in layer.facts().notes


def test_a_warm_start_and_an_assigned_weight_are_those_of_the_folds():
    dense, x = nn.Linear(24, 16), torch.randn(4, 24)
    folded, layer = copy.deepcopy(dense), copy.deepcopy(dense)
    autosample.convert_(folded, "folded", ratio=4, warm_start=True)
    autosample.convert_(layer, "conditioned", ratio=4, warm_start=True)
    torch.testing.assert_close(layer(x), folded(x))
    assert layer.fit_error == folded.fit_error
    mixing(layer)
    with pytest.warns(UserWarning, match="fit the assigned weight"):
        layer.weight = dense.weight
    torch.testing.assert_close(layer(x), folded(x))
