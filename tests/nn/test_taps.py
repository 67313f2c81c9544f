"""Gradients where some taps see only padding, with a torch that leaves their gradients undefined in half precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autosample
from autosample.nn import execution


class _Undefined(torch.autograd.Function):
    """A convolution whose gradient is NaN in taps where the true gradient is zero for any numbers."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):
        ctx.save_for_backward(x, weight)
        padding = [k // 2 for k in weight.shape[2:]] if padding == "same" else padding
        ctx.args = None, stride, padding, dilation, False, [0] * (x.dim() - 2), groups, [True, True, False]
        return REAL[x.dim()](x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        gx, gw, _ = torch.ops.aten.convolution_backward(grad, x, weight, *ctx.args)
        ones = [torch.ones_like(t) for t in (grad, x, weight)]
        _, reached, _ = torch.ops.aten.convolution_backward(*ones, *ctx.args)
        gb = grad.flatten(2).sum((0, 2))
        return gx, gw.masked_fill(reached == 0, float("nan")), gb, None, None, None, None


REAL = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
CASES = {
    "1x1, stride 2": (nn.Conv2d, {"kernel_size": 3, "stride": 2, "padding": 1}, (1, 1)),
    "1x1, stride 1": (nn.Conv2d, {"kernel_size": 3, "padding": 1}, (1, 1)),
    "2x1, 5x7": (nn.Conv2d, {"kernel_size": (5, 7), "padding": (2, 3), "stride": (1, 2)}, (2, 1)),
    "spread taps": (nn.Conv2d, {"kernel_size": 3, "padding": 4, "dilation": 4}, (3, 5)),
    "a gap between reached taps": (nn.Conv2d, {"kernel_size": 3, "stride": 2, "padding": 2}, (1, 1)),
    "as large as before": (nn.Conv2d, {"kernel_size": (3, 5), "padding": "same"}, (1, 2)),
    "groups": (nn.Conv2d, {"kernel_size": 3, "padding": 1, "stride": 2, "groups": 2}, (1, 1)),
    "signals": (nn.Conv1d, {"kernel_size": 9, "padding": 4, "stride": 4}, (2,)),
    "all are reached": (nn.Conv2d, {"kernel_size": 3, "padding": 1}, (5, 4)),
}


def layer_of(kind, options):
    torch.manual_seed(0)
    layer = nn.Sequential(kind(16, 32, **options))
    autosample.convert_(layer, "random", ratio=4)
    return layer


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mixed", [True, False], ids=["mixed", "true"])
def test_gradients_in_half_precision_are_those_of_float64(monkeypatch, case, mixed):
    kind, options, size = CASES[case]
    x = torch.randn(8, 16, *size)
    right = layer_of(kind, options).double()
    right(x.double()).square().sum().backward()
    for name in ("conv1d", "conv2d"):
        monkeypatch.setattr(F, name, lambda *args: _Undefined.apply(*_cast(args)))
    net = layer_of(kind, options)
    net = net if mixed else net.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed), execution("materialize"):
        net(x if mixed else x.bfloat16()).float().square().sum().backward()
    for name, parameter in net.named_parameters():
        wanted = right.get_parameter(name).grad
        far = (parameter.grad.double() - wanted).norm() / wanted.norm()
        assert far < 0.02, name


def _cast(args):
    """What autocast does."""
    if torch.is_autocast_enabled("cpu"):
        args = [t.bfloat16() if isinstance(t, torch.Tensor) else t for t in args]
    return args
