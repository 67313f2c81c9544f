"""Window sums with time along rows, against the convolution that they stand for, in float64."""

import pytest
import torch
import torch.nn.functional as F

from autosample import convert_, export_onnx, export_pt2
from autosample.deployment.deploy import deploy
from autosample.export.forms import fits_rows
from autosample.export.portable import portable
from autosample.export.rows import RowSums
from autosample.nn import SummaryConv1d
from autosample.nn.lineage import lineage_of
from autosample.nn.planning import layer_frame, layer_task

SUMMARIES = {
    "channel groups": {"spec": "wsnet", "options": {"spatial": 8, "channel": 4}},
    "no groups": {"spec": "wsnet", "options": {"spatial": 8, "channel": 1}},
    "an odd number of groups": {"spec": "wsnet", "options": {"spatial": 8, "channel": 3}},
    "windows out of order": {"spec": "random", "windows": 1, "ratio": 6},
}

SHAPES = {
    "plain": {"kernel_size": 8},
    "stride": {"kernel_size": 8, "stride": 2, "padding": 4},
    "dilation": {"kernel_size": 6, "dilation": 2, "padding": 3, "bias": False},
    "stride and dilation": {"kernel_size": 5, "stride": 3, "dilation": 2, "padding": 1},
    "same": {"kernel_size": 5, "padding": "same"},
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("summary", SUMMARIES)
def test_rows_are_the_convolution(summary, shape, batch):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv1d(13, 40, **SHAPES[shape]), torch.nn.BatchNorm1d(40))
    convert_(net, **SUMMARIES[summary])
    layer = net[0]
    assert isinstance(layer, SummaryConv1d)
    net[1].running_mean.normal_()
    net[1].weight.data.normal_()
    x = torch.randn(batch, 13, 21)
    with torch.no_grad():
        frame, _ = layer_frame(layer)
        task = layer_task(layer)
        assert task is not None
        if not fits_rows(task, frame, 0):
            pytest.skip("the segments of this one are longer than a tap")
        (origin,) = [o for m in deploy(net.eval(), x, measure=False, fuse=False).modules() if (o := lineage_of(m))]
        sampled = portable(net, x).model.get_submodule("0").sampled
        made = RowSums(origin.layer, sampled, origin, task)
        wanted = F.conv1d(
            x.double(),
            layer.weight.double(),
            None if layer.bias is None else layer.bias.double(),
            layer.stride,
            layer.padding,
            layer.dilation,
        )
        wanted = net.double()[1](wanted)
        torch.testing.assert_close(made(x).double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.fixture
def short(monkeypatch) -> tuple[torch.nn.Module, torch.Tensor]:
    """A net like the end of SoundNet, but small, with this form for its second layer."""
    torch.manual_seed(0)
    monkeypatch.setattr("autosample.export.portable.choose_form", lambda layer, shape, sums: ("rows", layer.task()))
    layers = [torch.nn.Conv1d(6, 32, 3), torch.nn.ReLU(), torch.nn.Conv1d(32, 70, 8, 2, 4), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers)
    convert_(net, "wsnet", options={"spatial": 8, "channel": 8}, include=["2"])
    return net.eval(), torch.randn(1, 6, 9)


def test_other_batches_and_lengths_in_another_runtime(short, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from autosample.export import onnx_runner

    net, x = short
    done = export_onnx(net, tmp_path / "model.onnx", x)
    assert done.forms == {"2": "rows"}
    graph = onnx.load(done.path).graph
    assert "Shape" not in {node.op_type for node in graph.node}  # no sizes are computed
    for batch, length in ((1, 9), (3, 9), (2, 14)):
        example = torch.randn(batch, 6, length)
        (got,) = onnx_runner(done.path)((example,))
        torch.testing.assert_close(got, net(example).detach(), rtol=1e-4, atol=1e-5)


def test_a_program_of_torch_takes_other_batches_and_lengths(short, tmp_path):
    net, x = short
    export_pt2(net, tmp_path / "model.pt2", x)
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch, length in ((1, 9), (3, 9), (2, 14)):
        example = torch.randn(batch, 6, length)
        torch.testing.assert_close(program(example), net(example).detach(), rtol=1e-4, atol=1e-5)
