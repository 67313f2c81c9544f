"""Selections on top of folds: against the formula in loops, against the best of all on tiny layers, and in files."""

import copy
import itertools
import math
import pickle

import pytest
import safetensors.torch
import scipy.linalg
import scipy.optimize
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import autosample
from autosample import convert_, harden_, report
from autosample.errors import ArtifactError
from autosample.models import create
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryConv3d, SummaryLinear, execution
from autosample.nn.folding import _modules, layer_folds
from autosample.nn.planning import layer_frame
from autosample.reuse.after import After
from autosample.sampling.keeping import best_assignment, exchange
from autosample.sampling.rules.blocks import apart

BOTH = {"assignment": "energy", "permutation": "energy"}
FACES = {0: SummaryLinear, 1: SummaryConv1d, 2: SummaryConv2d, 3: SummaryConv3d}


def select(layer, seed: int = 0) -> None:
    """Blocks and channels at random."""
    draw, rule = torch.Generator().manual_seed(seed), layer.offsets
    folds = rule.folds()
    if folds is None:
        return
    each = folds.filters // folds.groups
    order = torch.cat([torch.randperm(each, generator=draw) + g * each for g in range(folds.groups)])
    for name, values in (
        ("assignment", folds.block()[order]),
        ("permutation", torch.randperm(folds.channels, generator=draw)),
    ):
        if f"{name}_bits" in rule._buffers:
            rule.keep(name, values, rule.get_buffer(f"{name}_bits").shape[-1])


def by_the_formula(layer) -> torch.Tensor:
    """`W[n, π(g·Q + q), κ] = H[b(n), g] · Φ[o[n] + κ, q]`, one number at a time, with SciPy's Hadamard matrix."""
    g, rule = layer.geometry, layer.offsets
    matrix = scipy.linalg.hadamard(1 << (g.windows - 1).bit_length())
    phi = layer.summary.detach().double()
    folds = rule.folds()
    if folds is None:
        return layer.weight.detach().double()
    kept = {name: rule.kept(name) for name in ("assignment", "permutation") if f"{name}_bits" in rule._buffers}
    blocks, channels = kept.get("assignment", folds.block()), kept.get("permutation", torch.arange(g.channels))
    weight = torch.zeros(g.filters, g.channels, g.taps, dtype=torch.float64)
    places = (g.length - g.taps) // g.grid + 1
    for n, m, k in itertools.product(range(g.filters), range(g.channels), range(g.taps)):
        sign = matrix[int(blocks[n]) % len(matrix), m // g.columns]
        weight[n, channels[m], k] = sign * phi[(n % places) * g.grid + k, m % g.columns]
    return weight.view(g.filters, g.channels, *g.kernel)


@st.composite
def layers(draw):
    axes = draw(st.sampled_from([0, 1, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3])) if axes else 1
    channels, filters = draw(st.integers(2, 13)), draw(st.integers(2, 13))
    kernel = tuple(draw(st.integers(1, 9 if axes == 1 else 3)) for _ in range(axes))
    options = draw(st.sampled_from([BOTH, {"assignment": "energy"}, {"permutation": "energy"}]))
    if blocks := draw(st.sampled_from([None, draw(st.integers(1, filters))])):
        options = {**options, "blocks": blocks}
    changes = {"windows": draw(st.integers(1, channels))} if draw(st.booleans()) else {}
    spec = {"spec": "folded", "ratio": draw(st.sampled_from([1.7, 3, 8, 40])), "options": options, **changes}
    if not axes:
        layer, shape = SummaryLinear(channels, filters, bias=draw(st.booleans()), **spec).double(), (2, 3, channels)
    else:
        more = {
            "stride": draw(st.integers(1, 2)),
            "padding": draw(st.integers(0, 2)),
            "padding_mode": draw(st.sampled_from(["zeros", "circular"])),
            "groups": groups,
            "bias": draw(st.booleans()),
        }
        layer = FACES[axes](channels * groups, filters * groups, kernel, **more, **spec).double()
        shape = (2, channels * groups, *[k + 2 for k in kernel])
    select(layer, draw(st.integers(0, 99)))
    return layer, shape


@settings(max_examples=60, deadline=None)
@given(layers())
def test_weight_outputs_and_gradients_are_those_of_the_formula(drawn):
    layer, shape = drawn
    assert torch.equal(layer.weight.detach(), by_the_formula(layer))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    with execution("materialize"):
        expected = layer(x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    push, wanted = torch.randn_like(out), [x, *layer.parameters()]
    mine, theirs = torch.autograd.grad(out, wanted, push), torch.autograd.grad(expected, wanted, push)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 10**6))
def test_an_assignment_is_the_best_of_all(scale, sizes, seed):
    blocks, items = len(sizes), sum(sizes)
    gain = torch.randn(items, blocks, generator=torch.Generator().manual_seed(seed)).mul(scale).round().numpy()
    found = best_assignment(gain, torch.tensor(sizes).numpy())
    assert [int((found == b).sum()) for b in range(blocks)] == sizes
    owner = torch.arange(blocks).repeat_interleave(torch.tensor(sizes)).numpy()
    rows, columns = scipy.optimize.linear_sum_assignment(gain[:, owner], maximize=True)
    assert gain[range(items), found].sum() == pytest.approx(gain[:, owner][rows, columns].sum())


def energy(weight: torch.Tensor, layer) -> float:
    """The energy that the best summary keeps at the layer's selections: by least squares, column by column."""
    g, kept = layer.geometry, 0.0
    flat = weight.reshape(g.filters, g.channels, -1).double()
    hadamard = scipy.linalg.hadamard(1 << (g.windows - 1).bit_length())
    blocks, channels = layer.offsets.kept("assignment"), layer.offsets.kept("permutation")
    for n in range(g.filters):
        for q in range(g.columns):
            members = [(group, channels[group * g.columns + q]) for group in range(g.windows)
                       if group * g.columns + q < g.channels]  # fmt: skip
            total = sum(int(hadamard[int(blocks[n]) % len(hadamard), group]) * flat[n, m] for group, m in members)
            kept += float(total.square().sum()) / len(members)
    return kept


@pytest.mark.parametrize(
    ("layer", "ratio"),
    [(nn.Conv2d(16, 24, 3), 4), (nn.Conv2d(13, 10, 1), 4), (nn.Linear(40, 30), 8), (nn.Conv1d(16, 32, 4, groups=2), 2)],
)
def test_more_is_kept_with_each_selection(layer, ratio):
    torch.manual_seed(0)
    nn.init.normal_(layer.weight)
    weight, kept = layer.weight.detach(), {}
    for name, options in {
        "fixed": {}, "blocks": {"assignment": "energy"}, "channels": {"permutation": "energy"}, "both": BOTH,
    }.items():  # fmt: skip
        changed = copy.deepcopy(layer)
        with pytest.warns(UserWarning, match="relative error"):
            convert_(changed, "folded", ratio=ratio, share="even", warm_start=True, options=options)
        assert torch.equal(changed.weight, by_the_formula(changed).float())
        kept[name] = 1 - changed.fit_error**2
        share = float(changed.weight.detach().square().sum() / weight.square().sum())
        assert kept[name] == pytest.approx(share, rel=1e-4)
        if name == "both" and apart(changed.geometry):
            assert kept[name] == pytest.approx(energy(weight, changed) / float(weight.square().sum()), rel=1e-4)
    fixed = math.sqrt(1 - kept["fixed"])
    assert f"fit error {fixed:.3f} without selections" in report(changed).rows[0].note
    assert kept["fixed"] * 1.05 < min(kept["blocks"], kept["channels"])
    assert max(kept["blocks"], kept["channels"]) < kept["both"]


def test_a_tiny_layer_gets_the_best_blocks_of_all():
    torch.manual_seed(1)
    layer = nn.Linear(8, 6, bias=False)
    weight = layer.weight.detach().clone()
    with pytest.warns(UserWarning, match="relative error"):
        convert_(layer, "folded", ratio=4, windows=4, share="even", warm_start=True,
                 options={"assignment": "energy", "blocks": 3})  # fmt: skip
    matrix = torch.tensor(scipy.linalg.hadamard(4), dtype=torch.float32)
    sums = torch.einsum("bg,ngq->nbq", matrix, weight.view(6, 4, 2)).square().sum(2) / 4
    best = max(
        sum(float(sums[n, b]) for n, b in enumerate(blocks))
        for blocks in itertools.product(range(3), repeat=6)
        if sorted(blocks) == [0, 0, 1, 1, 2, 2]
    )
    assert float(layer.weight.detach().square().sum()) == pytest.approx(best, rel=1e-5)


def test_exchanges_end_where_no_exchange_gains_and_find_a_hidden_order():
    """Channels that are equal up to sign within columns lose nothing, and no exchange between columns helps."""
    torch.manual_seed(2)
    windows, columns, filters = 4, 6, 32
    base = torch.randn(filters, 1, columns)
    matrix = torch.tensor(scipy.linalg.hadamard(4), dtype=torch.float32)
    rows = torch.arange(filters) * 4 // filters
    weight = (matrix[rows][:, :, None] * base).reshape(filters, -1)
    mixed = weight[:, torch.randperm(windows * columns)]
    layer = nn.Linear(windows * columns, filters, bias=False)
    layer.weight.data.copy_(mixed)
    convert_(layer, "folded", ratio=4, share="even", warm_start=True, options={"permutation": "energy"})
    kept = 1 - layer.fit_error**2

    def share(order: torch.Tensor) -> float:
        sums = torch.einsum("ng,ngq->nq", matrix[rows], mixed[:, order].view(filters, windows, columns))
        return float(sums.square().sum() / 4 / mixed.square().sum())

    order = layer.offsets.kept("permutation")
    assert kept == pytest.approx(share(order), rel=1e-4)
    for one, other in itertools.combinations(range(windows * columns), 2):
        if one % columns != other % columns:
            swapped = order.clone()
            swapped[[one, other]] = order[[other, one]]
            assert share(swapped) <= kept + 1e-5
    assert kept > 2 * share(torch.arange(windows * columns))


@pytest.mark.parametrize(("channels", "windows"), [(12, 4), (11, 4), (10, 3)])
def test_gains_of_exchanges_are_exact(channels, windows):
    torch.manual_seed(3)
    columns, rows = -(-channels // windows), torch.arange(16) % 4
    weight = torch.zeros(windows * columns, 16)
    weight[:channels] = torch.randn(channels, 16)
    matrix = torch.tensor(scipy.linalg.hadamard(4), dtype=torch.float32)
    products = torch.stack([(weight * matrix[rows, s]) @ weight.t() for s in range(4)])
    members = torch.tensor([sum(g * columns + q < channels for g in range(windows)) for q in range(columns)])

    def kept(order: torch.Tensor) -> float:
        full = torch.cat([order, torch.arange(channels, windows * columns)])
        placed = weight[full].view(windows, columns, 16)
        sums = (matrix[rows, :windows].t()[:, None] * placed).sum(0)
        return float((sums.square().sum(1) / members).sum())

    before = kept(torch.arange(channels))
    for sweeps in range(1, 8):
        order = exchange(products, windows, columns, channels, sweeps)
        assert sorted(order.tolist()) == list(range(channels))
        assert kept(order) >= before - 1e-4
        before = kept(order)
    assert before > 1.2 * kept(torch.arange(channels))


def test_overlapping_filters_keep_no_less():
    torch.manual_seed(0)
    layer = nn.Conv1d(32, 64, 16)
    errors = {}
    for name, options in {"fixed": {}, "chosen": BOTH}.items():
        changed = copy.deepcopy(layer)
        with pytest.warns(UserWarning, match="relative error"):
            convert_(changed, "folded", ratio=32, share="even", warm_start=True, options={"overlap": 4, **options})
        errors[name] = changed.fit_error
    assert errors["chosen"] < errors["fixed"]


def test_files_hold_the_bits_and_nothing_else(tmp_path):
    model = nn.Sequential(nn.Conv2d(24, 40, 3), nn.ReLU(), nn.Conv2d(40, 24, 1))
    with pytest.warns(UserWarning, match="relative error"):
        convert_(model, "folded", ratio=8, share="even", warm_start=True, options=BOTH)
    rows = report(model).rows
    # 8 blocks; 24 channels take 5 bits, 40 take 6
    assert [row.position_bits for row in rows[:2]] == [40 * 3 + 24 * 5, 24 * 3 + 40 * 6]
    stored = model[0].stored()
    assert {name: t.numel() for name, t in stored.items()} == {
        "summary": model[0].summary.numel(), "bias": 40, "offsets.assignment": 15, "offsets.permutation": 15,
    }  # fmt: skip


def test_saved_models_compute_the_same(tmp_path):
    model = create("digitnet", num_classes=10).eval()
    with pytest.warns(UserWarning, match="relative error"):
        convert_(model, "folded", ratio=4, warm_start=True, options=BOTH)
    x = torch.randn(2, 1, 16, 16)
    expected = harden_(model)(x)
    autosample.save(model, tmp_path / "saved")
    loaded = autosample.load(tmp_path / "saved")
    assert torch.equal(loaded(x), expected)
    size = sum(t.nbytes for t in safetensors.torch.load_file(tmp_path / "saved" / "model.safetensors").values())
    assert size == report(model).stored_bytes == report(loaded).stored_bytes
    torch.testing.assert_close(autosample.densify(loaded)(x), expected, rtol=1e-4, atol=1e-5)
    twin = pickle.loads(pickle.dumps(loaded))
    assert torch.equal(twin(x), expected)
    again = create("digitnet", num_classes=10).eval()
    convert_(again, "folded", ratio=4, options=BOTH)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), expected)


@pytest.mark.parametrize(
    ("form", "options"), [("onnx", BOTH), pytest.param("pt2", BOTH, marks=pytest.mark.slow), ("pt2", {})]
)
def test_exported_models_compute_the_same_from_the_bits(form, options, tmp_path):
    model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(1), nn.Linear(64 * 16, 62))
    convert_(model.eval(), "folded", ratio=8, share="even", include=["re:.*"], options=options)
    for number, layer in enumerate((model[0], model[4])):
        select(layer, number)
    write = autosample.export_onnx if form == "onnx" else autosample.export_pt2
    done = write(model, tmp_path / f"model.{form}", torch.randn(1, 32, 14, 14))  # any batch
    assert done.error < 2e-6
    assert list(done.forms.values()) == ["signed", "signed"]
    assert done.bytes < report(model).stored_bytes + 16_000


@pytest.mark.parametrize("name", ["assignment", "permutation"])
def test_damaged_selections_are_refused(name):
    layer = SummaryLinear(24, 40, spec="folded", ratio=8, options=BOTH)
    stored = {n.removeprefix("offsets."): t for n, t in layer.stored().items() if n.startswith("offsets")}
    stored[name] = torch.zeros_like(stored[name])
    with pytest.raises(ArtifactError, match=f"a stored {name} must be the usual one in another order"):
        layer.offsets.restored(stored)


def cases():
    return [
        (SummaryConv2d(16, 24, 3, padding=1, spec="folded", ratio=4, options=BOTH), torch.randn(2, 16, 9, 9)),
        (SummaryConv2d(16, 22, 1, spec="folded", ratio=4, options=BOTH), torch.randn(2, 16, 5, 5)),
        (SummaryConv2d(16, 24, 3, groups=2, spec="folded", ratio=4, options=BOTH), torch.randn(2, 16, 9, 9)),
        (SummaryConv1d(16, 24, 16, spec="folded", ratio=8, options=BOTH), torch.randn(2, 16, 60)),
        (SummaryLinear(48, 30, spec="folded", ratio=4, options=BOTH), torch.randn(7, 48)),
    ]


@pytest.mark.parametrize("case", range(5))
def test_every_plan_is_the_layer_with_its_weight(case):
    torch.manual_seed(case)
    layer, x = cases()[case]
    select(layer, case)
    layer.eval()
    weight, bias = by_the_formula(layer), layer.bias.detach().double()
    if isinstance(layer, nn.Linear):
        right = F.linear(x.double(), weight, bias)
    else:
        run = F.conv1d if x.dim() == 3 else F.conv2d
        right = run(x.double(), weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    frame, pad = (None, None) if isinstance(layer, nn.Linear) else layer_frame(layer)
    for relu in (False, True):
        scale = torch.rand(len(weight)) + 0.5
        expected = (right - bias.view(-1, *[1] * (x.dim() - 2))) if x.dim() > 2 else right - bias
        shape = (-1, *[1] * (x.dim() - 2))
        expected = expected * scale.double().view(shape if x.dim() > 2 else (-1,)) + (
            bias.view(shape) if x.dim() > 2 else bias
        )
        expected = F.relu(expected) if relu else expected
        after = After(scale, layer.bias.detach(), relu)
        modules = _modules(layer, layer_folds(layer), frame, pad, after, fuse=True)
        assert len(modules) >= (2 if layer.geometry.kernel else 1)
        for kind, module in modules.items():
            with torch.no_grad():
                out = module(x)
            assert float((out - expected).abs().max() / expected.abs().max()) < 2e-6, kind
            again = copy.deepcopy(module)
            assert torch.equal(again(x), out)
