"""ONNX files with int8 arithmetic: what runs, with which numbers, how near, how large, and what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from every_spec import PRESETS_WITH_WEIGHT
from small_nets import small_net
from torch import Tensor, nn

import autosample
from autosample.errors import ExportError
from autosample.export import Exported, onnx_runner
from autosample.export.int8 import quantise

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def batches(x: Tensor, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, *x.shape[1:], generator=generator) for _ in range(count)]


def optimised(path: Path):
    """The graph that onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path.with_suffix(".ran")), 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(path.with_suffix(".ran")).graph


def numbers(graph) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


class Case(NamedTuple):
    model: nn.Sequential
    x: Tensor
    data: list[Tensor]
    done: Exported


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """Convolutions of both kinds and linear layers, with a filter that a norm switches off."""
    model, x = small_net("mixed", "random")
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        model.get_parameter("1.weight")[3] = 0
    data = batches(x)
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    return Case(model, x, data, autosample.export_onnx(model, path, x, calibrate=iter(data)))


def test_onnxruntime_runs_integers(case):
    written = onnx.load(case.done.path).graph
    rounded = {node.input[0] for node in written.node if node.op_type == "QuantizeLinear"}
    made = {name for node in written.node for name in node.output}
    assert len(rounded & made) > 4  # before and after every layer
    ran = Counter(node.op_type for node in optimised(case.done.path).node)
    assert ran["QLinearConv"] == 2
    assert ran["QGemm"] == 2
    assert not ran.keys() & {"Conv", "FusedConv", "Gemm", "MatMul"}
    assert onnx.load(case.done.path).producer_name == "autosample"
    assert {opset.domain for opset in onnx.load(case.done.path).opset_import} == {""}


def test_weights_are_rounded_once(case):
    """Within half a step of the layer's weight: that of the summary, times the norm's factor of the filter."""
    graph = optimised(case.done.path)
    stored = numbers(graph)
    convs = [node for node in graph.node if node.op_type == "QLinearConv"]
    for (conv, norm), node in zip(((case.model[0], case.model[1]), (case.model[4], case.model[5])), convs, strict=True):
        factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        expected = (conv.weight.flatten(1) * factor[:, None]).detach()
        got = torch.tensor(stored[node.input[3]].astype(np.float32)).flatten(1)
        got = got * torch.tensor(stored[node.input[4]])[:, None]
        step = factor.abs()[:, None] * conv.summary.detach().abs().max() / 64
        assert bool(((got - expected).abs() <= 0.501 * step).all())
        assert stored[node.input[3]].dtype == np.int8


def test_it_is_near_the_model_and_says_so(case):
    run, model = onnx_runner(case.done.path), case.model
    expected = torch.cat([model(x) for x in case.data]).detach()
    got = torch.cat([run((x,))[0] for x in case.data])
    error = float((got - expected).norm() / expected.norm())
    assert error < 0.05
    near = case.done.fidelity
    assert near is not None
    assert near.error == pytest.approx(error, rel=1e-3)
    assert near.same == pytest.approx(float((got.argmax(1) == expected.argmax(1)).float().mean()))
    assert near.examples == 24
    assert f"{error:.2%} relative error" in str(case.done)


def test_it_is_as_near_as_the_dense_model_in_int8(case, tmp_path):
    dense = autosample.export_onnx(case.model, tmp_path / "dense.onnx", case.x, calibrate=case.data, dense=True)
    assert case.done.fidelity is not None
    assert dense.fidelity is not None
    assert case.done.fidelity.error < 1.5 * dense.fidelity.error + 0.005
    assert case.done.bytes < 0.6 * dense.bytes


def test_the_batch_may_vary(case):
    run, x = onnx_runner(case.done.path), torch.cat(case.data)
    whole = run((x,))[0]
    for count in (1, 5):
        torch.testing.assert_close(run((x[:count],))[0], whole[:count])


def test_no_weight_is_stored(case):
    stored = numbers(onnx.load(case.done.path).graph)
    sampled = [layer for layer in case.model if hasattr(layer, "summary")]
    assert max(array.size for array in stored.values()) <= max(layer.summary.numel() for layer in sampled)
    large = [layer for layer in sampled if layer.summary.numel() >= 256]
    assert sum(name.endswith("summary_levels") for name in stored) == len(large) > 0


@pytest.mark.slow
def test_it_is_hardly_larger_than_with_int8_weights(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(64, 512, 3), nn.BatchNorm2d(512), nn.ReLU(), nn.Conv2d(512, 512, 3), nn.BatchNorm2d(512)]
    model = nn.Sequential(*layers).eval()
    autosample.convert_(model, "wsnet", ratio=8)
    autosample.harden_(model)
    x = torch.randn(1, 64, 6, 6)
    weights = autosample.export_onnx(model, tmp_path / "weights.onnx", x, int8_weights=True)
    done = autosample.export_onnx(model, tmp_path / "model.onnx", x, calibrate=[x])
    assert done.bytes < 1.04 * weights.bytes
    assert done.fidelity is not None
    assert done.fidelity.same is None  # no classes


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(8, 32)

    def forward(self, x, y):
        return self.first(x) + self.second(y)


@pytest.mark.slow
def test_models_that_were_never_converted_and_inputs_in_pairs(tmp_path):
    torch.manual_seed(0)
    model, x, y = Two().eval(), torch.randn(4, 16), torch.randn(4, 8)
    for i, data in enumerate(([(x, y)], [((x, y), torch.zeros(4))])):
        done = autosample.export_onnx(model, tmp_path / f"{i}.onnx", (x, y), calibrate=data)
        torch.testing.assert_close(onnx_runner(done.path)((x, y))[0], model(x, y).detach(), atol=0.1, rtol=0)
        assert Counter(node.op_type for node in optimised(done.path).node)["QGemm"] == 2


GRAPH = """
<ir_version: 8, opset_import: ["" : 18]>
graph (float[N, 8, 4, 4] input) => (float[N, 256, 4, 4] output)
<float[1] low = {0.5}, int64[1] many = {256}, int64[4] rows = {256, 1, 1, 1},
 float[1, 8, 1, 1] first = {1, 2, 3, 4, 5, 6, 7, 8}>
{
    bias = Expand(low, many)
    column = Reshape(bias, rows)
    weight = Mul(column, first)
    output = Conv(input, weight, bias)
}
"""


def test_constants_may_depend_on_each_other(tmp_path):
    """A bias from which the weight is computed too: the weight is put back, and the bias is stored as integers."""
    model, x = onnx.parser.parse_model(GRAPH), torch.rand(2, 8, 4, 4)
    onnx.save(quantise(model, [(x,)], {}), tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    expected = torch.einsum("bchw,c->bhw", x, torch.arange(1.0, 9.0)) * 0.5 + 0.5
    (got,) = onnx_runner(tmp_path / "model.onnx")((x,))
    torch.testing.assert_close(
        got, expected[:, None].expand(-1, 256, -1, -1), rtol=0, atol=0.02 * float(expected.max())
    )
    assert max(array.size for array in numbers(onnx.load(tmp_path / "model.onnx").graph).values()) < 256 * 8
    assert {node.op_type for node in optimised(tmp_path / "model.onnx").node} >= {"QLinearConv"}


X = torch.randn(2, 3, 24, 24)


@pytest.mark.parametrize(
    ("calibrate", "said"),
    [
        ([], "at least one batch, got none"),
        (X, "batches of inputs, got one Tensor"),
        ("folder", "batches of inputs, got one str"),
        (3, "batches of inputs, got one int"),
        ([X[:, :2]], r"shape \(any, 3, 24, 24\) and type torch.float32, got \(2, 2, 24, 24\)"),
        ([X[0]], r"got \(3, 24, 24\)"),
        ([X[:0]], r"got \(0, 3, 24, 24\)"),
        ([X.byte()], "got .* and torch.uint8"),
        ([X, X / 0], "finite, got NaN or infinity"),
        ([None], "must hold 1 tensors, got NoneType"),
        ([()], "must hold 1 tensors, got"),
        ([{"x": X}], "must hold 1 tensors, got dict"),
    ],
)
def test_bad_data_gets_one_line_and_no_file(calibrate, said, tmp_path):
    model, x = small_net("image", "dense")
    with pytest.raises(ExportError, match=said) as raised:
        autosample.export_onnx(model, tmp_path / "model.onnx", x, calibrate=calibrate)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_fit_get_one_line(tmp_path):
    model, x = small_net("image", "dense")
    for write in (autosample.export_onnx, autosample.export_pt2):
        with pytest.raises(ExportError, match='"int8" is now called "int8_weights"'):
            write(model, tmp_path / "model", x, int8=True)
        with pytest.raises(TypeError, match="'int9'"):
            write(model, tmp_path / "model", x, int9=True)
    with pytest.raises(ExportError, match="leave out int8_weights"):
        autosample.export_onnx(model, tmp_path / "model.onnx", x, int8_weights=True, calibrate=[x])


class Steep(nn.Module):
    def forward(self, x):
        return (x * 1e6 + 1e6) - 1e6


def test_what_8_bits_cannot_hold_is_not_kept(tmp_path):
    """The numbers between differ by a millionth of their size, so 256 levels hold nothing of them."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8, bias=False), Steep()).eval(), torch.rand(2, 8) * 1e-3
    with pytest.raises(ExportError, match="calibrate with real inputs"):
        autosample.export_onnx(model, tmp_path / "model.onnx", x, calibrate=[x])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["dense", *PRESETS_WITH_WEIGHT])
@pytest.mark.parametrize("kind", ["mixed", "signal", "image"])
def test_every_preset(preset, kind, tmp_path):
    model, x = small_net(kind, preset)
    done = autosample.export_onnx(model, tmp_path / "model.onnx", x, calibrate=batches(x))
    dense = autosample.export_onnx(model, tmp_path / "dense.onnx", x, calibrate=batches(x), dense=True)
    assert done.fidelity is not None
    assert dense.fidelity is not None
    assert done.fidelity.error < 2.5 * dense.fidelity.error + 0.02
    ran = Counter(node.op_type for node in optimised(done.path).node)
    assert not ran.keys() & {"Conv", "FusedConv", "Gemm", "MatMul"}
    weights = autosample.export_onnx(model, tmp_path / "weights.onnx", x, int8_weights=True)
    assert done.bytes < weights.bytes + 7_000  # names and operators


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_models_of_timm(name, tmp_path):
    torch.manual_seed(0)
    size: dict[str, Any] = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=10, **size).eval()
    autosample.convert_(model, "random", ratio=4)
    autosample.harden_(model)
    x = torch.randn(1, 3, 64, 64)
    weights = autosample.export_onnx(model, tmp_path / "weights.onnx", x, int8_weights=True)
    done = autosample.export_onnx(model, tmp_path / "model.onnx", x, calibrate=batches(x))
    dense = autosample.export_onnx(model, tmp_path / "dense.onnx", x, calibrate=batches(x), dense=True)
    assert done.fidelity is not None
    assert dense.fidelity is not None
    assert done.fidelity.error < 1.5 * dense.fidelity.error + 0.02
    assert done.bytes < 1.1 * weights.bytes + 40_000
    ran = Counter(node.op_type for node in optimised(done.path).node)
    assert ran["QLinearConv"] > 0
