"""Window sums with time along rows, against the convolution that they stand for, in float64."""

import pytest
import torch
import torch.nn.functional as F

from autosample import convert_
from autosample.deploy import deploy
from autosample.export.plans import fits_rows
from autosample.export.portable import portable
from autosample.export.rows import RowSums
from autosample.lineage import lineage_of
from autosample.nn import SummaryConv1d
from autosample.nn.execution import layer_frame, layer_task

SUMMARIES = {
    "channel groups": {"spec": "wsnet", "spatial": 8, "channel": 4},
    "no groups": {"spec": "wsnet", "spatial": 8, "channel": 1},
    "an odd number of groups": {"spec": "wsnet", "spatial": 8, "channel": 3},
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
        made = RowSums(origin.layer, sampled, origin, task, product=False)
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


def test_the_last_layer_of_soundnet_takes_this_form():
    from autosample.models import create

    net = create("soundnet8", num_classes=10)
    convert_(net, "wsnet", spatial=8, channel=8, include=["re:stages.*"])
    assert portable(net.eval(), torch.randn(1, 1, 110_250)).forms["stages.7.conv"] == "rows"
