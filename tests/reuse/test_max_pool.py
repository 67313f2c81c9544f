"""Max-pools of the fused kernel against torch's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import library, nn

from autosample import convert_, deploy
from autosample.reuse import fused
from autosample.reuse.max_pool import MaxPool2d, use_fast_pools

pytestmark = pytest.mark.skipif(not fused.available(), reason="the fused kernel cannot be built here")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        (3, 2, 1, (112, 112)),
        (2, 2, 0, (17, 33)),
        ((3, 5), (1, 3), (1, 2), (9, 40)),
        ((1, 7), (2, 1), (0, 3), (6, 7)),
        (3, 1, 1, (1, 1)),
        (5, 5, 2, (31, 64)),
    ],
)
def test_values_are_those_of_torch(kernel, stride, padding, size, dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=dtype)
    x[0, 0, 0, 0], x[1, 2, -1, -1], x[0, 1] = torch.nan, torch.inf, -torch.inf
    pool = MaxPool2d(nn.MaxPool2d(kernel, stride, padding))
    expected = F.max_pool2d(x, kernel, stride, padding)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.requires_grad_()):
        torch.testing.assert_close(pool(given), expected, equal_nan=True, rtol=0, atol=0)


def test_pools_that_torch_alone_computes_stay():
    own = nn.MaxPool2d(2)
    own.register_forward_hook(lambda *args: None)
    others = [own, nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(2, return_indices=True)]
    model = nn.Sequential(*others, nn.MaxPool2d(2))
    use_fast_pools(model)
    assert [type(m) is MaxPool2d for m in model] == [False] * 4 + [True]


def test_a_deployed_net_has_them_and_can_be_compiled_exported_and_copied():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(64, 64, 3, padding=1))
    x = torch.randn(1, 64, 24, 24)
    convert_(net, "folded", ratio=16)
    fast = deploy(net, x, measure=False)
    assert isinstance(fast[1], MaxPool2d)
    expected = fast(x)
    torch.testing.assert_close(copy.deepcopy(fast)(x), expected)
    assert library.opcheck(torch.ops.autosample.max_pool2d, (x, [3, 3, 2, 2, 1, 1]))
    exported = torch.export.export(nn.Sequential(fast[1]), (x,))
    assert "autosample" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(x), fast[1](x))
