"""Quantised models: their values, their bytes, and that they go on as ordinary models."""

import copy
import math

import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

import autosample
import autosample.models
from autosample import PRESETS, convert_, deploy, harden_, quantize_, report
from autosample.artifact import compact_state
from autosample.coding.levels import even_levels, even_range, kmeans_levels, nearest_level, soft_kmeans
from autosample.coding.packing import pack, packed_bytes, unpack
from autosample.coding.quantizers import QUANTIZERS
from autosample.coding.written import keep, kept
from autosample.errors import ConversionError, QuantizationError
from autosample.model.quantize import attach_quantizers, code_dense_
from autosample.nn import CodedLayer, SummaryConv1d, SummaryConv2d, SummaryLinear, compressed_layers


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv1d(8, 32, 9, padding=4), nn.BatchNorm1d(32)
        self.conv2, self.depthwise = nn.Conv1d(32, 32, 9), nn.Conv1d(32, 32, 3, groups=32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.depthwise(self.conv2(self.norm(self.conv1(x)).relu())).mean(2))


def net(preset="autosample", **changes) -> Net:
    model = Net().eval()
    learned = {"options": {"afford": 10}} if preset == "autosample" else {}
    convert_(model, preset, **{"ratio": 4, "include": ["conv1", "conv2"], **learned, **changes})
    return model


def signal():
    return torch.randn(2, 8, 40)


# --- packing and levels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 26))
def test_packing_is_least_significant_bit_first_without_gaps(bits):
    for count in (0, 1, 7, 8, 9, 1001):
        values = torch.randint(2**bits, (count,))
        packed = pack(values, bits)
        assert len(packed) == packed_bytes(count, bits)
        assert torch.equal(unpack(packed, bits, count), values)
        number = int.from_bytes(bytes(packed.tolist()), "little")
        assert [(number >> (i * bits)) & (2**bits - 1) for i in range(min(count, 50))] == values[:50].tolist()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_even_levels_reach_from_the_least_to_the_largest_value(bits):
    values = torch.randn(5000)
    levels = even_levels(even_range(values, bits), bits)
    assert len(levels) == 2**bits
    assert levels[0] == values.min()
    torch.testing.assert_close(levels[-1], values.max())
    step = (values.max() - values.min()) / (2**bits - 1)
    torch.testing.assert_close(levels.diff(), step.expand(2**bits - 1), rtol=1e-3, atol=1e-6)
    shown = levels[nearest_level(values, levels)]
    assert (shown - values).abs().max() <= step / 2 * (1 + 1e-4)
    assert torch.equal(shown, levels[(values[:, None] - levels).abs().argmin(1)])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codebooks_are_as_good_as_scikit_learns(bits):
    values = torch.cat([torch.randn(3000), 0.1 * torch.randn(1000) + 3])
    levels = kmeans_levels(values, bits)
    assert torch.equal(levels, levels.sort().values)
    ours = (levels[nearest_level(values, levels)] - values).square().sum()
    peer = KMeans(2**bits, n_init=1, random_state=0, max_iter=50).fit(values[:, None].numpy())
    assert ours <= 1.1 * peer.inertia_


def test_a_gaussian_at_two_bits_has_the_least_possible_error():
    """Lloyd's and Max's tables: 0.1175 of the variance at 2 bits, 0.009497 at 4."""
    values = torch.randn(200_000)
    for bits, least in ((2, 0.1175), (4, 0.009497)):
        levels = kmeans_levels(values, bits)
        assert (levels[nearest_level(values, levels)] - values).square().mean() == pytest.approx(least, rel=0.03)


def test_values_that_are_all_alike_and_few():
    for values in (torch.full((7,), 0.3), torch.tensor([1.5]), torch.tensor([0.0, 1.0])):
        for method in ("linear", "codebook"):
            layer = nn.Linear(1, 1)
            layer = SummaryLinear(4, 8, spec="random", ratio=2)
            with torch.no_grad():
                layer.summary.copy_(values.repeat(16)[: layer.summary.numel()].view_as(layer.summary))
            before = layer.summary.detach().clone()
            quantize_(layer, 8, method=method)
            torch.testing.assert_close(layer.summary.detach(), before, atol=1e-7, rtol=1e-6)


def test_soft_kmeans_is_differentiable_and_hard_in_the_limit():
    values = torch.randn(64, dtype=torch.float64, requires_grad=True)
    levels = kmeans_levels(values, 2)
    shown, moved = soft_kmeans(values, levels, 1e-4)
    hard = moved[nearest_level(values, moved.float().detach())]
    torch.testing.assert_close(shown.float(), hard.float(), atol=1e-3, rtol=0)
    soft, _ = soft_kmeans(values, levels, 2.0)
    (grad,) = torch.autograd.grad(soft.square().sum(), values)
    assert grad.isfinite().all()
    assert grad.abs().max() > 0


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "codebook"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
def test_a_layer_has_its_levels_and_its_bytes(preset, bits, method):
    model = SummaryConv2d(16, 32, 3, spec=preset, ratio=4)
    harden_(model)
    before = model.summary.detach().clone()
    result = quantize_(model, bits, method=method)
    model.requires_grad_(False)
    assert len(model.summary.unique()) <= 2**bits
    row = result.rows[0]
    assert row.error == pytest.approx(float((model.summary - before).norm() / before.norm()), rel=1e-4)
    assert row.worst == pytest.approx(float((model.summary - before).abs().max()), rel=1e-4)
    table = 4 * 2**bits if method == "codebook" else 8
    assert row.after == math.ceil(before.numel() * bits / 8) + table
    assert result.after == report(model).stored_bytes == sum(t.nbytes for t in compact_state(model).values())
    assert report(model).dense_bytes == result.before - before.nbytes - _offset_bytes(model) + 4 * 32 * 16 * 9


def _offset_bytes(layer) -> int:
    return sum(t.nbytes for name, t in layer.stored().items() if name.split(".")[0] in ("offsets", "sign_seed"))


def test_it_goes_on_as_an_ordinary_model():
    model, x = net(signs="random"), signal()
    before = harden_(copy.deepcopy(model))(x)
    quantize_(model, 8, rest="bf16")
    y = model(x)
    assert (y - before).norm() < 0.05 * before.norm()
    assert torch.equal(copy.deepcopy(model)(x), y)
    fast = deploy(model, x, measure=False, fuse=False)
    torch.testing.assert_close(fast(x), y, atol=1e-5, rtol=1e-4)
    twin = net(signs="random")
    quantize_(twin, 8, rest="bf16")
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), y)
    assert compact_state(twin).keys() == compact_state(model).keys()
    assert all(torch.equal(compact_state(twin)[k], v) for k, v in compact_state(model).items())


def test_what_is_trained_on_is_still_shown_at_the_levels():
    model = net("random")
    quantize_(model, 4)
    levels = model.conv2.summary.detach().unique()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(signal()).square().sum().backward()
    assert model.conv2.summary.grad.abs().sum() > 0
    optimizer.step()
    assert not torch.isin(model.conv2.summary, levels).all()
    assert torch.isin(model.conv2.weight, levels).all()
    assert torch.isin(harden_(model).conv2.summary, levels).all()


def test_quantising_again_changes_nothing_or_everything():
    model = net()
    quantize_(model, 4, method="codebook")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert all(row.error == 0 for row in quantize_(model, 4, method="codebook").rows)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert len(quantize_(model, 3).rows) == 2
    assert model.conv1.quantizers["summary"].bits == 3


def test_all_layers_at_few_bits():
    model, x = net(), signal()
    before = model.head.weight.detach().clone()
    result = quantize_(model, 8, layers="all", rest="fp16")
    assert {row.name for row in result.rows} >= {"head.numbers", "depthwise.numbers", "conv1.summary", "(rest)"}
    for layer, kind in ((model.head, nn.Linear), (model.depthwise, nn.Conv1d)):
        assert isinstance(layer, CodedLayer)
        assert isinstance(layer, kind)
        assert layer.dense_class is kind
        assert type(layer).__name__ == f"Coded{kind.__name__}"
        assert len(layer.numbers.unique()) <= 256
    assert set(compressed_layers(model)) == {"conv1", "conv2", "depthwise", "head"}
    step = (before.max() - before.min()) / 255
    assert (model.head.weight - before).abs().max() <= 0.51 * step
    rows = {row.name: row for row in report(model).rows}
    assert rows["head"].method == "dense"
    assert "8 bits" in rows["head"].note
    assert len(report(model).converted) == 2
    torch.testing.assert_close(deploy(model, x, measure=False, fuse=False)(x), model(x), atol=1e-5, rtol=1e-4)
    dense = Net()
    assert quantize_(dense, 8, layers="all").ratio > 3


def test_a_layer_at_few_bits_becomes_dense_again_and_trains_on_at_its_levels():
    model, x = Net().eval(), signal()
    quantize_(model, 4, layers="all")
    y = model(x)
    assert torch.equal(copy.deepcopy(model)(x), y)
    levels = model.conv2.numbers.detach().unique()
    model(x).square().sum().backward()
    with torch.no_grad():
        model.conv2.numbers.add_(model.conv2.numbers.grad, alpha=-1e-3)
    assert not torch.isin(model.conv2.numbers, levels).all()
    assert torch.isin(model.conv2.weight, levels).all()
    weight = model.conv2.weight.detach().clone()
    dense = model.conv2.to_dense_()
    assert type(dense) is nn.Conv1d
    assert dense is model.conv2
    assert torch.equal(dense.weight, weight)
    assert set(dense.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_each_filter_has_levels_of_its_own(bits, tmp_path):
    model, x = Net().eval(), signal()
    with torch.no_grad():  # filters of very different spread, one constant and one of a single value
        model.conv2.weight *= torch.logspace(-3, 3, 32)[:, None, None]
        model.conv2.weight[5] = 0.25
        model.head.weight[:, 1:] = 0
    before = {name: m.weight.detach().clone() for name, m in model.named_modules() if hasattr(m, "weight")}
    result = quantize_(model, bits, method="per-filter", layers="all")
    for name in ("conv1", "conv2", "depthwise", "head"):
        weight = getattr(model, name).weight.detach()
        for got, old in zip(weight, before[name], strict=True):
            # every level nearest, among all of this filter
            levels = torch.linspace(float(old.min()), float(old.max()), 2**bits, dtype=torch.float64)
            best = (old.double().reshape(-1, 1) - levels).abs().min(1).values.view_as(old)
            limit = 1e-6 * float(old.abs().max())
            assert ((got - old).abs().double() - best).abs().max() <= limit
            assert len(got.unique()) <= 2**bits
    assert torch.equal(model.conv2.weight[5], before["conv2"][5])
    row = next(row for row in result.rows if row.name == "conv2.numbers")
    assert (row.method, row.after) == ("per-filter", math.ceil(32 * 32 * 9 * bits / 8) + 8 * 32)
    assert result.after == sum(t.nbytes for t in compact_state(model).values())
    y = model(x)
    torch.testing.assert_close(deploy(model, x, measure=False, fuse=False)(x), y, atol=1e-3, rtol=1e-4)
    twin = Net().eval()
    quantize_(twin, bits, method="per-filter", layers="all")
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), y)
    assert all(row.error == 0 for row in quantize_(model, bits, method="per-filter", layers="all").rows)
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert torch.equal(half.head.in_use("numbers"), model.head.numbers.to(torch.bfloat16))


def test_levels_of_filters_are_saved_and_written(tmp_path):
    model, x = autosample.models.create("digitnet", num_classes=3, in_chans=1).eval(), torch.randn(2, 1, 8, 8)
    convert_(model, "random", ratio=8, include=["stages.3"])
    harden_(model)
    result = quantize_(model, 4, method="per-filter", layers="all", rest="fp16")
    # a summary has no filters
    assert {row.name: row.method for row in result.rows}["stages.3.conv.summary"] == "linear"
    y = model(x)
    autosample.save(model, tmp_path / "saved")
    loaded = autosample.load(tmp_path / "saved")
    assert torch.equal(loaded(x), y)
    assert compact_state(loaded).keys() == compact_state(model).keys()
    # as an exported graph holds them
    layer, graph = loaded.stages[1].conv, nn.Module()
    keep(graph, "weight", layer.numbers, quantizer=layer.quantizer("numbers"))
    assert torch.equal(kept(graph, "weight"), layer.weight)
    assert sum(t.nbytes for t in graph.buffers()) == packed_bytes(layer.numbers.numel(), 4) + 8 * len(layer.numbers)


def test_ternary_weights_are_those_of_the_paper(tmp_path):
    """`α·sign(w)·1[|w| > 0.7·mean|w|]`, where `α` is the mean size of the weights above (Li and Liu 2016)."""
    model, x = autosample.models.create("digitnet", num_classes=3, in_chans=1).eval(), torch.randn(2, 1, 8, 8)
    w = model.stages[1].conv.weight.detach().clone()
    above = w.abs() > 0.7 * w.abs().mean()
    expected = torch.where(above, w.sign(), 0) * w.abs()[above].mean()
    learning = copy.deepcopy(model)
    quantize_(model, 2, method="ternary", layers="all")
    torch.testing.assert_close(model.stages[1].conv.weight.detach(), expected, rtol=1e-5, atol=0)
    row = next(r for r in report(model).rows if r.name == "stages.1.conv")
    assert row.stored_bytes == math.ceil(w.numel() * 2 / 8) + 8
    assert model.stages[1].conv.quantizer("numbers").bits == 2
    autosample.save(model, tmp_path)
    assert torch.equal(autosample.load(tmp_path)(x), model(x))
    # while levels are learned, the layer shows what it will be fixed to
    code_dense_(learning)
    attach_quantizers(learning, 2, "ternary")
    layer = learning.stages[1].conv
    layer.start_levels("numbers")
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-5, atol=0)
    layer.weight.sum().backward()
    assert torch.equal(layer.numbers.grad, torch.ones_like(w))
    with pytest.raises(QuantizationError, match="ternary numbers take 2 bits, got bits=4"):
        quantize_(learning, 4, method="ternary", layers="all")


@pytest.mark.parametrize("method", QUANTIZERS)
def test_a_graph_holds_what_the_layer_computes_with(method):
    layer, graph = nn.Conv2d(6, 10, 3), nn.Module()
    quantize_(layer, 2 if method == "ternary" else 3, method=method, layers="all")
    keep(graph, "weight", layer.numbers, quantizer=layer.quantizer("numbers"))
    assert torch.equal(kept(graph, "weight"), layer.weight)


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_rest_in_half_precision(name, dtype):
    model = net()
    dense = report(model).dense_bytes
    quantize_(model, 8, rest=name)
    state = compact_state(model)
    assert {t.dtype for k, t in state.items() if k.startswith("norm") and t.is_floating_point()} == {dtype}
    assert model.norm.weight.dtype == torch.float32
    assert torch.equal(state["head.weight"].float(), model.head.weight)
    assert report(model).dense_bytes == dense
    with torch.no_grad():
        model.norm.weight.add_(1e-4)  # trained on: no more in half precision, and never lost
    assert compact_state(model)["norm.weight"].dtype == torch.float32


def test_numbers_that_do_not_fit():
    model = net()
    model.norm.running_var.fill_(1e6)
    with pytest.raises(QuantizationError, match='use rest="bf16"'):
        quantize_(copy.deepcopy(model), rest="fp16")
    quantize_(copy.deepcopy(model), rest="bf16")
    with torch.no_grad():
        model.conv2.summary[0, 0] = math.nan
    with pytest.raises(QuantizationError, match=r"conv2\.summary"):
        quantize_(model)


@pytest.mark.parametrize(
    "options", [{"bits": 1}, {"bits": 9}, {"bits": 8.0}, {"method": "kmeans"}, {"layers": "some"}, {"rest": "int8"}]
)  # fmt: skip
def test_arguments_out_of_range(options):
    with pytest.raises(QuantizationError, match="must be"):
        quantize_(net(), **options)


def test_models_that_cannot_be_quantised():
    with pytest.raises(QuantizationError, match="call convert_ first"):
        quantize_(Net())
    with pytest.raises(QuantizationError, match="a deployed model cannot be quantised"):
        quantize_(deploy(net(), signal(), measure=False, fuse=False))
    with pytest.raises(ConversionError):
        convert_(net(), "wsnet", ratio=4)


def test_the_report_prints():
    text = str(quantize_(net(), 4, method="codebook", rest="bf16"))
    for word in ("conv1.summary", "codebook", "(rest)", "bfloat16", "model"):
        assert word in text


def test_denser_sampling_has_a_quantised_mixing_matrix():
    model = SummaryConv1d(64, 32, 16, spec="wsnet", ratio=8, denser=2)
    result = quantize_(model, 4)
    assert [row.name for row in result.rows] == ["summary", "densify"]
    assert len(model.densify.unique()) <= 16


def test_half_precision_and_back_keeps_the_levels():
    model = net()
    quantize_(model, 8, method="codebook")
    codes = compact_state(model)["conv2.summary.codes"]
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert half.conv2.quantizers["summary"].codebook.dtype == torch.float32
    kept = model.conv2.summary.detach().to(torch.bfloat16)
    assert torch.equal(half.conv2.in_use("summary"), kept)
    assert torch.equal(compact_state(copy.deepcopy(model).double())["conv2.summary.codes"], codes)


def test_soundnet_at_180_times(tmp_path):
    """WSNet S8C8 with 8 bits: 180 times smaller on ESC-10, every byte of the model file counted."""
    import safetensors.torch

    model = autosample.models.create("soundnet8", num_classes=10)
    dense = len(safetensors.torch.save(model.state_dict()))
    convert_(model, "wsnet", options={"spatial": 8, "channel": 8})
    quantize_(model, 8, layers="all", rest="fp16")
    size = autosample.save(model, tmp_path).tensors.bytes
    assert dense / size > 180
