"""Another format is one class and one row of `FORMATS`: the command line and the comparison find it there."""

import io
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from small_nets import small_net

import autosample
from autosample.cli.main import main
from autosample.errors import ExportError, MissingExtra
from autosample.export import FORMATS, Format, write_model
from autosample.export.formats.pt2 import to_program
from autosample.models import create


class Times(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@dataclass(frozen=True)
class Toy(Format):
    """A program of torch's in a file of its own."""

    title: ClassVar[str] = "a toy"

    file_name: str = "model.toy"
    times: float = 1.0

    def write(self, model, path, args, axes):
        program = to_program(torch.nn.Sequential(model, Times(self.times)), args, axes)
        written = io.BytesIO()
        torch.export.save(program, written)
        path.write_bytes(written.getvalue())

    def runner(self, path, threads=0):
        again = torch.export.load(io.BytesIO(path.read_bytes())).module()
        return lambda args: [again(*args)]


@pytest.fixture
def toy(monkeypatch) -> Format:
    form = Toy()
    monkeypatch.setitem(FORMATS, "toy", form)
    return form


def test_the_command_line_writes_it(toy, tmp_path, capsys):
    torch.manual_seed(0)
    model = autosample.convert(create("digitnet", num_classes=10), "wsnet", ratio=4)[0]
    made = {"input_size": [1, 8, 8], "mean": [0.3], "std": [0.4]}
    autosample.save(model, tmp_path / "saved", name="digitnet", arguments={"num_classes": 10}, preprocessing=made)
    assert main(["export", str(tmp_path / "saved"), "--format", "toy", "--dense"]) == 0
    assert "largest error" in capsys.readouterr().out
    x = torch.randn(3, 1, 8, 8)
    (got,) = toy.runner(tmp_path / "saved" / "model.toy")((x,))
    torch.testing.assert_close(got, autosample.load(tmp_path / "saved")(x), rtol=1e-4, atol=1e-5)
    assert main(["export", str(tmp_path / "saved"), "--format", "toi"]) == 2
    assert 'did you mean "toy"' in capsys.readouterr().err
    assert main(["export", "--help"]) == 0
    assert "toy (a toy)" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "saved"), "--format", "toy", "--opset", "18"]) == 2
    assert "no setting 'opset'" in capsys.readouterr().err


def test_a_file_that_computes_something_else_is_not_kept(toy, tmp_path):
    model, x = small_net("image", "wsnet")
    with pytest.raises(ExportError, match="outputs differ from"):
        write_model(toy.adjusted(times=1.01), model, tmp_path / "model.toy", x, dense=True)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_needs_is_asked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr("autosample.system.extras._is_there", lambda name: False)
    model, x = small_net("image", "wsnet")
    with pytest.raises(MissingExtra, match=r"autosample\[export\]"):
        autosample.export_onnx(model, tmp_path / "model.onnx", x)


def test_rows_differ_in_their_settings_only():
    assert FORMATS["onnx-int8-weights"] == FORMATS["onnx"].adjusted(
        int8_weights=True, file_name="model-int8-weights.onnx"
    )
    assert "256 levels" in FORMATS["onnx-int8-weights"].about
    with pytest.raises(ExportError, match="opset must be at least"):
        FORMATS["onnx"].adjusted(opset=9)
