"""`.pt2` files: read again in a process that knows torch only, as small as what is stored, nothing pickled."""

import subprocess
import sys
import zipfile

import pytest
import torch
from small_nets import small_net

import autosample
from autosample.export.check import TOLERANCE

READ = """
import sys, torch
run = torch.export.load(sys.argv[1]).module()
x, y = torch.load(sys.argv[2], weights_only=True)
print(float((run(x) - y).abs().max() / y.abs().max()))
assert "autosample" not in sys.modules
"""


@pytest.mark.parametrize(("preset", "kind"), [("wsnet", "signal"), ("autosample", "image"), ("hashednet", "image")])
def test_exact_and_compact(preset, kind, tmp_path):
    model, x = small_net(kind, preset)
    done = autosample.export_pt2(model, tmp_path / "model.pt2", x)
    assert done.error <= TOLERANCE
    names = zipfile.ZipFile(done.path).namelist()
    assert not any("pkl" in name for name in names)


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
