"""`.pt2` files: read again in a process that knows torch only, as small as what is stored, nothing pickled."""

import subprocess
import sys
import zipfile

import pytest
import torch
from small_nets import small_net
from torch import nn

import autosample
from autosample.export.check import TOLERANCE

READ = """
import sys, torch
run = torch.export.load(sys.argv[1]).module()
x, y = torch.load(sys.argv[2], weights_only=True)
print(float((run(x) - y).abs().max() / y.abs().max()))
assert "autosample" not in sys.modules
"""


@pytest.mark.parametrize(
    ("preset", "kind"),
    [("wsnet", "signal"), ("autosample", "image"), pytest.param("hashednet", "image", marks=pytest.mark.slow)],
)
def test_exact_and_compact(preset, kind, tmp_path):
    model, x = small_net(kind, preset)
    done = autosample.export_pt2(model, tmp_path / "model.pt2", x)
    assert done.error <= TOLERANCE
    names = zipfile.ZipFile(done.path).namelist()
    assert not any("pkl" in name for name in names)


@pytest.mark.parametrize(
    ("layers", "shape", "other"),
    [
        ((nn.Conv2d(48, 64, 3), nn.ReLU(), nn.Conv2d(64, 96, 3)), (1, 48, 16, 16), (3, 48, 16, 16)),
        ((nn.Conv1d(48, 64, 16), nn.ReLU()), (1, 48, 90), (3, 48, 60)),
        ((nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64)), (1, 96), (5, 96)),
    ],
)
def test_folded_layers_take_batches_of_any_size(layers, shape, other, tmp_path):
    model = nn.Sequential(*layers)
    autosample.convert_(model, "folded", ratio=8, include=["re:.*"])
    done = autosample.export_pt2(model.eval(), tmp_path / "model.pt2", torch.randn(shape))
    assert set(done.forms.values()) == {"signed"}
    x = torch.randn(other)
    with torch.no_grad():
        got = torch.export.load(done.path).module()(x)
        torch.testing.assert_close(got, model.double()(x.double()).float(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_fresh_process_needs_nothing_but_torch(tmp_path):
    model, x = small_net("signal", "wsnet")
    done = autosample.export_pt2(model, tmp_path / "model.pt2", x)
    x = torch.randn(3, 2, 700)
    torch.save((x, model(x).detach()), tmp_path / "io.pt")
    command = [sys.executable, "-W", "ignore", "-c", READ, str(done.path), str(tmp_path / "io.pt")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert float(out) <= TOLERANCE


def test_quantised_and_int8(tmp_path):
    model, x = small_net("image", "wsnet", ratio=4)
    whole = autosample.export_pt2(model, tmp_path / "whole.pt2", x)
    small = autosample.export_pt2(model, tmp_path / "small.pt2", x, int8_weights=True)
    assert small.bytes < whole.bytes
    autosample.quantize_(model, 8)
    assert autosample.export_pt2(model, tmp_path / "quantised.pt2", x).error <= TOLERANCE
