"""Another format is one class and one row of `FORMATS`: the command line and the comparison find it there."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from conftest import small_net

import autosample
from autosample.cli.main import main
from autosample.errors import ExportError, MissingExtra
from autosample.export import FORMATS, Format, write_model
from autosample.models import create


@dataclass(frozen=True)
class Scripted(Format):
    """TorchScript."""

    title: ClassVar[str] = "a traced module"

    file_name: str = "model.ts"
    times: float = 1.0

    def write(self, model, path, args, axes):
        torch.jit.save(torch.jit.trace(lambda *inputs: model(*inputs) * self.times, args), path)

    def runner(self, path, threads=0):
        again = torch.jit.load(path)
        return lambda args: [again(*args)]


@pytest.fixture
def scripted(monkeypatch) -> Format:
    form = Scripted()
    monkeypatch.setitem(FORMATS, "scripted", form)
    return form


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


def test_the_command_line_writes_it(scripted, tmp_path, capsys):
    torch.manual_seed(0)
    model = autosample.convert(create("digitnet", num_classes=10), "wsnet", ratio=4)[0]
    made = {"input_size": [1, 8, 8], "mean": [0.3], "std": [0.4]}
    autosample.save(model, tmp_path / "saved", name="digitnet", arguments={"num_classes": 10}, preprocessing=made)
    assert main(["export", str(tmp_path / "saved"), "--format", "scripted", "--dense"]) == 0
    assert "largest error" in capsys.readouterr().out
    again = torch.jit.load(tmp_path / "saved" / "model.ts")
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(again(x), autosample.load(tmp_path / "saved")(x), rtol=1e-4, atol=1e-5)
    assert main(["export", str(tmp_path / "saved"), "--format", "scriptet"]) == 2
    assert 'did you mean "scripted"' in capsys.readouterr().err
    assert main(["export", "--help"]) == 0
    assert "a traced module" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "saved"), "--format", "scripted", "--opset", "18"]) == 2
    assert "no setting 'opset'" in capsys.readouterr().err


def test_a_file_that_computes_something_else_is_not_kept(scripted, tmp_path):
    model, x = small_net("image", "wsnet")
    with pytest.raises(ExportError, match="may differ"):
        write_model(scripted.adjusted(times=1.01), model, tmp_path / "model.ts", x, dense=True)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_needs_is_asked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr("autosample.system.extras._is_there", lambda name: False)
    model, x = small_net("image", "wsnet")
    with pytest.raises(MissingExtra, match=r"autosample\[export\]"):
        autosample.export_onnx(model, tmp_path / "model.onnx", x)


def test_rows_differ_in_their_settings_only():
    assert FORMATS["onnx-int8"] == FORMATS["onnx"].adjusted(int8=True, file_name="model-int8.onnx")
    assert "256 levels" in FORMATS["onnx-int8"].about
    with pytest.raises(ExportError, match="opset must be at least"):
        FORMATS["onnx"].adjusted(opset=9)
