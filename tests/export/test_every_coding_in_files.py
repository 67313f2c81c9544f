"""Every method with every coding, in layers of every kind, in files for other runtimes."""

import pytest
import torch
from every_kind import CODINGS, EVERY, X, every_kind

import autosample
from autosample.export import onnx_runner
from autosample.export.check import TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize(("method", "coding"), EVERY)
def test_files_compute_the_same(method, coding, form, tmp_path):
    net, x = every_kind(method), torch.randn(X)
    if (options := CODINGS[coding]) is not None:
        autosample.quantize_(net, **options)
    autosample.harden_(net)
    expected = net(x).detach()
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        done = autosample.export_onnx(net, tmp_path / "net.onnx", x, dynamic=False)
        (got,) = onnx_runner(done.path)((x,))
    else:
        done = autosample.export_pt2(net, tmp_path / "net.pt2", x, dynamic=False)
        got = torch.export.load(done.path).module()(x)
    assert done.error <= TOLERANCE
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
