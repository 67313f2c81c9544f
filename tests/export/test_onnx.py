"""ONNX files: what they compute in onnxruntime, what they weigh, and how they read."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from small_nets import small_net
from torch import nn

import autosample
from autosample.errors import ConversionError, ExportError
from autosample.export import onnx_runner
from autosample.export.check import TOLERANCE

onnx = pytest.importorskip("onnx")


def parts(path) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Names of the nodes, and shapes of the stored tensors by name."""
    graph = onnx.load(path).graph
    return [node.name for node in graph.node], {t.name: tuple(t.dims) for t in graph.initializer}


# a net with all kinds of layers for each way to store a weight; all others are slow tests
QUICK = {(preset, "mixed") for preset in ("folded",)}
EVERY = [
    pytest.param(preset, kind, marks=[] if (preset, kind) in QUICK else [pytest.mark.slow])
    for preset in sorted(autosample.PRESETS)
    for kind in ("mixed", "signal", "image")
]


@pytest.mark.parametrize(("preset", "kind"), EVERY)
def test_every_preset_is_exact_and_compact(preset, kind, tmp_path):
    model, x = small_net(kind, preset)
    done = autosample.export_onnx(model, tmp_path / "model.onnx", x)
    assert done.error <= TOLERANCE
    assert done.inputs >= (2 if kind == "mixed" else 4)  # of several batches, and of several lengths or sizes
    sampled = [t for t in parts(done.path)[1].items() if t[0].endswith(".summary")]
    assert len(sampled) == len(done.forms or {})
    expected = model(torch.cat([x, 2 * x])).detach()
    (got,) = onnx_runner(done.path)((torch.cat([x, 2 * x]),))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("wsnet", {"options": {"spatial": 2, "channel": 4}, "denser": 2}),
        ("random", {"windows": 4, "grid": 2}),
        ("random", {"windows": 4, "signs": "random"}),
        ("wsnet", {"ratio": 8, "columns": "shuffle"}),
        ("random", {"ratio": 8, "rule": "interpolated", "layout": "flat"}),
    ],
)
def test_odd_fields(preset, changes, kind, tmp_path):
    model, x = small_net(kind, preset, **changes)
    assert autosample.export_onnx(model, tmp_path / "model.onnx", x).error <= TOLERANCE


@pytest.mark.slow
def test_deployed_models_are_written_as_what_they_come_from(tmp_path):
    model, x = small_net("signal", "wsnet")
    fast = autosample.deploy(model, x)
    again = autosample.export_onnx(fast, tmp_path / "fast.onnx", x)
    direct = autosample.export_onnx(model, tmp_path / "direct.onnx", x)
    assert again.stored_bytes == direct.stored_bytes
    assert again.error <= TOLERANCE
    assert {t for t in parts(again.path)[1] if "." in t} == {t for t in parts(direct.path)[1] if "." in t}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A net in training, its weights before it was exported, and the export, with data for its accuracy."""
    model, x = small_net("image", "wsnet")
    model.train()
    before = copy.deepcopy(model.state_dict())
    batches = [(torch.randn(4, 3, 24, 24), torch.randint(0, 5, (4,))) for _ in range(2)]
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return model, before, autosample.export_onnx(model, path, x, data=batches)


def test_names_are_those_of_the_layers(written):
    done = written[2]
    nodes, tensors = parts(done.path)
    assert {"0.summary", "4.summary", "0.bias"} <= tensors.keys()
    assert any(name.startswith("4/Conv") for name in nodes)
    assert len(set(nodes)) == len(nodes)
    graph = onnx.load(done.path)
    assert [value.name for value in graph.graph.input] == ["input"]
    assert [value.name for value in graph.graph.output] == ["output"]
    assert str(Path(__file__).parents[2]) not in str(graph)  # whoever gets the file need not know who made it


def test_the_model_is_left_as_it_is(written):
    model, before, _ = written
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_accuracy_and_the_line_that_is_printed(written):
    done = written[2]
    assert done.accuracy is not None
    assert done.accuracy[0] == done.accuracy[1]
    line = str(done)
    assert "\n" not in line
    assert f"{done.bytes:,} bytes" in line
    assert "accuracy" in line


def test_no_tensor_is_larger_than_what_is_stored(tmp_path):
    model, x = small_net("image", "autosample", ratio=16)
    tensors = parts(autosample.export_onnx(model, tmp_path / "model.onnx", x).path)[1]
    largest = max(layer.summary.numel() for layer in model if hasattr(layer, "summary"))
    assert max(torch.Size(shape).numel() for shape in tensors.values()) <= max(largest, 48 * 64)


@pytest.mark.slow
def test_int8_keeps_numbers_that_lie_on_a_grid(tmp_path):
    model, x = small_net("image", "wsnet")
    for layer in model:
        for values in (
            getattr(layer, "summary", None),
            None if hasattr(layer, "summary") else getattr(layer, "weight", None),
        ):
            if isinstance(values, nn.Parameter) and values.dim() > 1:
                values.data = torch.randint(-100, 156, values.shape) / 1024
                values.data.flatten()[:2] = torch.tensor([-100, 155]) / 1024
    done = autosample.export_onnx(model, tmp_path / "model.onnx", x, int8_weights=True)
    assert done.error <= TOLERANCE


@pytest.mark.slow
def test_int8_is_smaller_and_near(tmp_path):
    model, x = small_net("signal", "wsnet", ratio=4)
    whole = autosample.export_onnx(model, tmp_path / "whole.onnx", x)
    small = autosample.export_onnx(model, tmp_path / "small.onnx", x, int8_weights=True)
    assert small.bytes < whole.bytes - 0.5 * whole.stored_bytes
    assert TOLERANCE < small.error < 0.1


@pytest.mark.parametrize(("method", "kind"), [("linear", "image"), ("codebook", "signal")])
@pytest.mark.slow
def test_quantised_models_stay_small_and_exact(method, kind, tmp_path):
    model, x = small_net(kind, "autosample", ratio=4)
    autosample.quantize_(model, 4, method=method, rest="fp16")
    done = autosample.export_onnx(model, tmp_path / "model.onnx", x)
    assert done.error <= TOLERANCE
    assert any(name.endswith("summary_codes") for name in parts(done.path)[1])


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_a_net_of_many_small_layers_stays_compact_when_quantised(bits, tmp_path):
    model = timm.create_model("test_resnet", num_classes=10)  # its operators weigh as much as its numbers
    autosample.convert_(model, "autosample", ratio=8)
    autosample.quantize_(model, bits, rest="fp16")
    done = autosample.export_onnx(model, tmp_path / "model.onnx", torch.randn(1, 3, 32, 32))
    assert done.error <= TOLERANCE
    assert done.bytes <= 1.15 * done.stored_bytes + 40_000


@pytest.mark.slow
def test_dense_on_request(tmp_path):
    model, x = small_net("signal", "wsnet", ratio=16)
    for given in (model, autosample.deploy(model, x, measure=False)):
        done = autosample.export_onnx(given, tmp_path / "model.onnx", x, dense=True)
        assert done.error <= TOLERANCE
        assert done.bytes > 4 * done.stored_bytes
        assert not any(name.endswith("summary") for name in parts(done.path)[1])


def test_a_file_that_is_not_compact_is_an_error(tmp_path, monkeypatch):
    model, x = small_net("image", "wsnet")
    monkeypatch.setattr("autosample.export.check._FIXED", 0)
    monkeypatch.setattr("autosample.export.check._SHARE", 0.5)
    with pytest.raises(ExportError, match="dense=True"):
        autosample.export_onnx(model, tmp_path / "model.onnx", x)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_have_one_line_and_leave_nothing(tmp_path):
    model, x = small_net("image", "wsnet")
    with pytest.raises(ExportError, match="opset"):
        autosample.export_onnx(model, tmp_path / "model.onnx", x, opset=9)
    with pytest.raises(ConversionError, match="example"):
        autosample.export_onnx(model, tmp_path / "model.onnx", [1, 2])  # pyright: ignore

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x) if float(x.sum()) > 0 else -self.net(x)

    with pytest.raises(ExportError, match="dynamic=False"):
        autosample.export_onnx(Branching(), tmp_path / "model.onnx", x)
    assert list(tmp_path.iterdir()) == []
