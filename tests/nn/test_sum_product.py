"""Sum-product layers against the published matrices, plain loops and their dense twins."""

import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F

import autosample
from autosample.coding.ternary import is_ternary, pack_ternary, ternary, unpack_ternary
from autosample.errors import ConversionError, SpecError
from autosample.nn import SummaryConv2d, SumProductConv1d, SumProductConv2d, SumProductLayer, SumProductLinear
from autosample.nn.sum_product import FROZEN, FULL, TERNARY

# Strassen's algorithm as on the poster, with column-major vec
W_A = [[-1,-1,0,0],[0,0,0,1],[-1,-1,1,1],[-1,0,1,0],[-1,-1,1,0],[0,0,1,0],[0,-1,0,0]]  # fmt: skip
W_B = [[-1,-1,0,0],[0,0,0,1],[0,1,0,0],[1,0,1,0],[-1,-1,-1,0],[1,1,1,1],[0,0,-1,0]]  # fmt: skip
W_C = [[1,0,0,-1,-1,0,1],[0,0,1,1,1,0,-1],[-1,0,0,0,1,1,-1],[0,1,0,0,0,0,1]]  # fmt: skip

# name: (class, positional arguments, keyword arguments, options, shape of an input)
KINDS = {
    "linear": (SumProductLinear, (12, 8), {}, {}, (2, 3, 12)),
    "conv1d": (SumProductConv1d, (4, 8, 5), {"padding": 2, "stride": 2}, {}, (2, 4, 17)),
    "patches 1d": (SumProductConv1d, (4, 8, 4), {"padding": 1, "stride": 3}, {"patch": 3}, (2, 4, 41)),
    "conv2d": (SumProductConv2d, (4, 8, 3), {"padding": 1, "bias": False}, {}, (2, 4, 7, 6)),
    "strided": (SumProductConv2d, (4, 8, (3, 5)), {"padding": (1, 2), "stride": (2, 1)}, {"patch": 2}, (2, 4, 9, 8)),
    "grouped": (SumProductConv2d, (8, 8, 3), {"groups": 2, "padding": "same"}, {"groups": 2, "patch": 2}, (2, 8, 7, 7)),
    "inner groups": (SumProductConv2d, (8, 6, 3), {"padding": 1}, {"groups": 2}, (2, 8, 5, 5)),
    "dilated": (SumProductConv2d, (4, 8, 3), {"dilation": 2}, {}, (2, 4, 9, 9)),
    "dilated patches": (SumProductConv2d, (4, 8, 3), {"dilation": 2}, {"patch": 2}, (2, 4, 9, 9)),
    "reflect": (SumProductConv2d, (4, 8, 3), {"padding": 1, "padding_mode": "reflect"}, {"patch": 2}, (2, 4, 8, 8)),
}
KIND = pytest.mark.parametrize("kind", KINDS)


def build(kind, dtype=torch.float32, **more) -> SumProductLayer:
    torch.manual_seed(0)
    face, args, kwargs, options, _ = KINDS[kind]
    return face(*args, **kwargs, options={"products": 1.5, **options, **more}).to(dtype)


def example(kind, dtype=torch.float32):
    return torch.randn(KINDS[kind][4], dtype=dtype)


def lively(layer):
    """A layer whose norm, factors and shifts are not those of a fresh one."""
    with torch.no_grad():
        layer.scale.uniform_(0.3, 2)
        layer.shift.normal_()
        layer.norm.running_mean.normal_()
        layer.norm.running_var.uniform_(0.3, 2)
    return layer.eval()


def looped(layer, x, matrix_b, factors, shifts, matrix_c):
    """`W_C [(W_B vec(B)) ⊙ ã + shift]`, patch by patch and channel group by channel group, with plain loops."""
    face = type(layer)
    if face is SumProductLinear:
        return ((x @ matrix_b.T) * factors + shifts) @ matrix_c
    axes, p = len(layer.kernel_size), layer.patches.patch
    pads = layer._reversed_padding_repeated_twice
    x = F.pad(x, pads, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    sizes = [
        (n - d * (k - 1) - 1) // q + 1
        for n, k, q, d in zip(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ]
    x = F.pad(x, [0, 50] * axes)
    out = x.new_zeros(len(x), layer.out_channels, *(n + p for n in sizes))
    r, parts = len(matrix_b), layer.groups * layer.patches.inner
    for patch in itertools.product(*(range(-(-n // p)) for n in sizes)):
        spread = layer.dilation if p == 1 else (1,) * axes
        where = [
            slice(t * p * q, t * p * q + (n - 1) * d + 1, d)
            for t, q, n, d in zip(patch, layer.stride, matrix_b.shape[2:], spread, strict=True)
        ]
        read = x[(slice(None), slice(None), *where)]
        for j in range(r):
            part, group = j * parts // r, j * layer.groups // r
            width = read.shape[1] // parts
            total = (read[:, part * width : (part + 1) * width] * matrix_b[j]).flatten(1).sum(1)
            value = total * factors[j] + shifts[j]
            first = group * layer.out_channels // layer.groups
            channels = slice(first, first + layer.out_channels // layer.groups)
            to = [slice(t * p, (t + 1) * p) for t in patch]
            out[(slice(None), channels, *to)] += value.view(-1, *[1] * (axes + 1)) * matrix_c[j]
    return out[(slice(None), slice(None), *(slice(n) for n in sizes))]


def test_strassens_algorithm_multiplies_matrices():
    """The poster's matrices, with seven multiplications: `vec(AB)` for whole numbers is exact."""
    torch.manual_seed(0)
    layer = SumProductLinear(4, 4, bias=False, options={"products": 7 / 4, "quantizer": "plain"}).double()
    assert layer.products == 7
    for _ in range(20):
        a, b = torch.randint(-9, 10, (2, 2, 2)).double()
        with torch.no_grad():
            layer.gather.copy_(torch.tensor(W_B))
            layer.spread.copy_(torch.tensor(W_C).T)
        hard = autosample.harden_(copy.deepcopy(layer)).eval()
        with torch.no_grad():
            hard.scale.copy_(torch.tensor(W_A).double() @ a.T.reshape(-1))
        got = hard(b.T.reshape(1, -1)).view(2, 2).T
        assert torch.equal(got, a @ b)


@KIND
@pytest.mark.parametrize("phase", [FULL, TERNARY, FROZEN])
def test_it_computes_the_formula(kind, phase):
    layer, x = lively(build(kind, torch.float64)), example(kind, torch.float64)
    layer.advance_((0.0, 0.9, 1.0)[phase])
    assert layer.phase == phase
    norm = layer.norm
    factors = layer.scale.clamp(0, 100) / (norm.running_var + norm.eps).sqrt()
    shifts = layer.scale.clamp(0, 100) * (layer.shift - norm.running_mean / (norm.running_var + norm.eps).sqrt())
    expected = looped(layer, x, layer.matrix("gather"), factors, shifts, layer.matrix("spread"))
    if layer.bias is not None:
        expected = expected + layer.bias.view(-1, *[1] * layer.patches.axes)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    assert layer(x).shape == F_like(kind)(x).shape


def F_like(kind):
    """The dense layer of the same arguments."""
    face, args, kwargs, _, _ = KINDS[kind]
    return face.dense_class(*args, **kwargs).double()


@KIND
def test_in_training_sums_are_normalised(kind):
    layer, x = build(kind), example(kind)
    with torch.no_grad():
        layer.scale.fill_(2.0)
    sums = layer.patches.gathered(x, layer.gather)
    axes = [i for i in range(sums.dim()) if i != (1 if layer.patches.axes else sums.dim() - 1)]
    mean, var = sums.mean(axes, keepdim=True), sums.var(axes, keepdim=True, unbiased=False)
    y = 2 * (sums - mean) / (var + 1e-5).sqrt()
    expected = layer.patches.spread(y, layer.spread, tuple(x.shape[2:]))
    if layer.bias is not None:
        expected = expected + layer.bias.view(-1, *[1] * layer.patches.axes)
    torch.testing.assert_close(layer.train()(x), expected, rtol=1e-4, atol=1e-4)


@KIND
def test_the_dense_twin_computes_the_same(kind):
    layer, x = lively(build(kind, torch.float64)), example(kind, torch.float64)
    y = layer(x)
    if layer.patches.patch > 1:
        with pytest.raises(ConversionError, match="patch"):
            autosample.densify(layer)
        with pytest.raises(ConversionError, match="only layers with patch 1 have a dense weight, got patch"):
            _ = layer.weight
        return
    dense = autosample.densify(layer)
    assert type(dense) is type(F_like(kind))
    torch.testing.assert_close(dense(x), y, rtol=1e-9, atol=1e-9)
    assert torch.equal(layer.weight.detach(), dense.weight.detach())


@KIND
def test_freezing_changes_no_output_of_ternary_entries_and_hardening_none(kind):
    layer, x = lively(build(kind, torch.float64)), example(kind, torch.float64)
    layer.advance_(0.85)
    ternary_out = layer(x)
    layer.freeze_()
    assert {*layer.matrix("gather").unique().tolist()} <= {-1.0, 0.0, 1.0}
    torch.testing.assert_close(layer(x), ternary_out, rtol=1e-9, atol=1e-9)
    frozen = layer.train()(x), layer.eval()(x)
    autosample.harden_(layer)
    torch.testing.assert_close(layer(x), frozen[1], rtol=1e-9, atol=1e-9)
    assert not [name for name, _ in layer.named_parameters() if name in ("gather", "spread")]


@KIND
@pytest.mark.parametrize("phase", [FULL, TERNARY, FROZEN])
def test_training_lowers_a_loss_and_reaches_every_parameter(kind, phase):
    layer, x = build(kind).train(), example(kind)
    layer.advance_((0.0, 0.9, 1.0)[phase])
    entries = [layer.matrix(name).clone() for name in ("gather", "spread")]
    target = torch.randn_like(layer(x))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in layer.parameters())
    same = [torch.equal(layer.matrix(n), before) for n, before in zip(("gather", "spread"), entries, strict=True)]
    assert same == [phase == FROZEN] * 2


def test_factors_are_clipped_and_can_come_back():
    layer = lively(build("conv2d"))
    with torch.no_grad():
        layer.scale[0], layer.scale[1] = -3.0, 200.0
    used = layer.factors()
    assert used[:2].tolist() == [0, 100]
    used.sum().backward()
    assert torch.equal(layer.scale.grad, torch.ones_like(layer.scale))


# --- ternary numbers --------------------------------------------------------------------------------------------------


def test_quantisers_are_the_published_ones():
    w = torch.tensor([0.9, -0.6, 0.5, 0.1, -0.2, 0.51])
    assert ternary(w, "plain")[0].tolist() == [1, -1, 0, 0, 0, 1]
    assert ternary(w, "plain")[1] == 1
    entries, scale = ternary(w, "rescaled")  # Δ = 0.7 · 2.81 / 6 = 0.328
    assert entries.tolist() == [1, -1, 1, 0, 0, 1]
    assert scale.item() == pytest.approx((0.9 + 0.6 + 0.5 + 0.51) / 4)
    zeros, one = ternary(torch.zeros(3), "rescaled")
    assert (zeros.tolist(), one.item()) == ([0, 0, 0], 1)


@pytest.mark.parametrize("count", [1, 4, 5, 6, 243 * 5, 1001])
def test_five_entries_in_a_byte(count):
    digits = torch.tensor(list(itertools.islice(itertools.cycle(itertools.product((-1, 0, 1), repeat=5)), count)))
    entries = digits.reshape(-1)[:count]
    packed = pack_ternary(entries)
    assert packed.dtype == torch.uint8
    assert len(packed) == -(-count // 5)
    assert torch.equal(unpack_ternary(packed, count), entries.float())
    assert is_ternary(packed)
    assert not is_ternary(torch.tensor([243], dtype=torch.uint8))
    assert int(pack_ternary(torch.tensor([1, 0, -1, 1, 1]))) == 2 + 3 * 1 + 9 * 0 + 27 * 2 + 81 * 2


# --- an ordinary module -----------------------------------------------------------------------------------------------


@KIND
def test_copies_and_reloads_are_equal(kind):
    layer, x = lively(build(kind)), example(kind)
    for progress in (0.0, 0.85, 0.97):
        layer.advance_(progress)
        fresh = build(kind).eval()
        fresh.load_state_dict(layer.state_dict(), strict=True)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
            assert torch.equal(twin(x), layer(x))
            assert twin.phase == layer.phase


@KIND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision(kind, dtype):
    layer, x = lively(build(kind)), example(kind)
    layer.freeze_()
    expected = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1 * float(expected.detach().abs().max()))
    layer.to(dtype)
    y = layer.train()(x.to(dtype))
    assert y.dtype == dtype
    y.float().square().mean().backward()
    assert layer.scale.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        ("linear", TERNARY),
        *(pytest.param(k, p, marks=pytest.mark.slow) for k in KINDS for p in range(3)),
    ],
)
def test_compile_fullgraph(kind, phase):
    torch._dynamo.reset()
    layer, x = build(kind).train(), example(kind)
    layer.advance_((0.0, 0.9, 1.0)[phase])
    twin = copy.deepcopy(layer)
    layer.compile(fullgraph=True, backend="aot_eager")
    out, expected = layer(x), twin(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["conv1d", "patches 1d", "linear"])
def test_functional_call_and_vmap(kind):
    """Per-example gradients, in one call."""
    layer, x = lively(build(kind)), example(kind)
    state = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, one):
        return torch.func.functional_call(layer, parameters, (one[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, x)
    for name in state:
        expected = torch.stack([torch.func.grad(loss)(state, one)[name] for one in x])
        torch.testing.assert_close(each[name], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_meta_layers_have_a_shape_and_a_size():
    layer = SumProductConv2d(8, 16, 3, device="meta", options={"products": 1})
    assert layer.weight.shape == (16, 8, 3, 3)
    assert all(tensor.is_meta for tensor in layer.stored().values())
    assert layer.facts().stored == SumProductConv2d(8, 16, 3, options={"products": 1}).facts().stored


def test_what_cannot_be_is_told_in_a_line():
    for make, said in (
        (lambda: SumProductConv2d(4, 8, 3), 'needs a size, got none: pass ratio=8 or options={"products": 1}'),
        (lambda: SumProductConv2d(4, 8, 3, spec="wsnet", ratio=4), "needs the rule strassen, got strided"),
        (lambda: SummaryConv2d(4, 8, 3, spec="strassen", ratio=4), "needs a rule for offsets, got strassen"),
        (lambda: SumProductConv2d(4, 8, 3, options={"products": 1, "groups": 3}), "must divide the 4 channels"),
        (
            lambda: SumProductConv2d(4, 8, 3, ratio=2, options={"products": 1}),
            "either ratio .2. or the option products",
        ),
        (lambda: SumProductConv2d(4, 8, 3, options={"products": 0}), "products must be a number above 0"),
        (lambda: SumProductConv2d(4, 8, 3, ratio=2, options={"ternary_at": 0.9, "freeze_at": 0.5}), "not be below"),
    ):
        with pytest.raises(SpecError, match=said) as error:
            make()
        assert "\n" not in str(error.value)
