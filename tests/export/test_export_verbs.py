"""`autosample export` and `autosample predict`: what they write and print, and how they end."""

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn

import autosample
from autosample.artifact import load_any
from autosample.cli.export import _example
from autosample.cli.main import main
from autosample.data.inputs import read_input, read_inputs
from autosample.export import onnx_runner
from autosample.export.check import OversizeError
from autosample.export.compare import compare_runtimes
from autosample.models import create

MADE = {"input_size": [1, 8, 8], "mean": [0.3], "std": [0.4]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saved models of sounds and images, and a file of each kind."""
    place = tmp_path_factory.mktemp("verbs")
    torch.manual_seed(0)
    sounds = autosample.convert(create("wave4", num_classes=3), "wsnet", ratio=16)[0]
    images = autosample.convert(create("digitnet", num_classes=10), "autosample", ratio=4, options={"afford": 10})[0]
    made = {"input_size": [1, 4000], "sample_rate": 8000, "samples": 4800, "crop": 4000, "normalize": "peak"}
    names = ["bark", "meow", "rain"]
    autosample.save(
        sounds, place / "sounds", name="wave4", arguments={"num_classes": 3}, preprocessing=made, class_names=names
    )
    autosample.save(images, place / "images", name="digitnet", arguments={"num_classes": 10}, preprocessing=MADE)
    soundfile.write(place / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 20000), 16000)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "noise.png")
    return place


def test_predict(folder, capsys):
    assert main(["predict", str(folder / "sounds"), str(folder / "noise.wav")]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{folder / 'noise.wav'}: ")
    assert all(name in line for name in ("bark", "meow", "rain"))
    assert main(["predict", str(folder / "images"), str(folder / "noise.png"), "--top", "2"]) == 0
    assert capsys.readouterr().out.count("%") == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["predict", "{}/sounds", "{}/noise.png"], "not a readable audio file"),
        (["predict", "{}/images", "{}/noise.wav"], "not a readable image"),
        (["predict", "{}/images", "{}/none.png"], "must be a file"),
        (["predict", "{}/images"], "predict needs files"),
        (["predict", "{}/nothing", "{}/noise.png"], "saved model"),
        (["predict", "{}/images", "{}/noise.png", "--top", "0"], "top must be at least 1"),
        (["predict", "--config", "nothing.yaml"], 'no file or config is called "nothing.yaml"'),
        (["export", "{}/images", "--format", "onnyx"], 'did you mean "onnx"'),
        (["export", "{}/nothing"], "saved model"),
        (["export", "{}/images", "--batch", "0"], "batch must be at least 1"),
        (["export", "{}/images", "--opset", "9", "--out", "{}/x.onnx"], "opset must be at least"),
        (["export", "{}/images", "--format", "onnx-int8", "--out", "{}/x.onnx"], "data to measure ranges on, got none"),
        (["export", "{}/images", "--calibrate", "{}", "--out", "{}/x.onnx"], "for the format onnx-int8, got onnx"),
        (["export", "{}/images", "--format", "onnx-int8", "--calibrate", "{}/images"], "must have files (.jpg"),
        (["export", "{}/images", "--format", "onnx-int8", "--calibrate", "{}/none.png"], "not a readable file"),
        (["export", "{}/images", "--format", "onnx-int8", "--calibrate", "{}", "--examples", "0"], "at least 1, got 0"),
    ],
)
def test_mistakes_end_with_one_line(folder, capsys, args, said):
    assert main([arg.format(folder) for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (folder / "x.onnx").exists()


def test_export(folder, capsys, tmp_path):
    for kind, name in (("onnx", "a.onnx"), ("pt2", "c.pt2")):
        assert main(["export", str(folder / "sounds"), "--format", kind, "--out", str(tmp_path / name)]) == 0
        assert "times the stored" in capsys.readouterr().out
    assert main(["export", str(folder / "images"), "--format", "artifact", "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "config.json").is_file()
    x = torch.randn(2, 1, 4000)
    expected = autosample.load(folder / "sounds")(x).detach()
    torch.testing.assert_close(onnx_runner(tmp_path / "a.onnx")((x,))[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_export_of_levels(folder, capsys, tmp_path):
    out = tmp_path / "b.onnx"
    assert main(["export", str(folder / "sounds"), "--format", "onnx-int8-weights", "--out", str(out)]) == 0
    assert "times the stored" in capsys.readouterr().out


@pytest.mark.slow
def test_export_with_int8_arithmetic(folder, capsys, tmp_path):
    out = tmp_path / "a.onnx"
    call = ["export", str(folder / "images"), "--format", "onnx-int8", "--calibrate", str(folder), "--compare", "false"]
    assert main([*call, "--out", str(out)]) == 0
    assert "on 1 calibration examples" in capsys.readouterr().out
    x = read_input(folder / "noise.png", MADE)[None]
    expected = autosample.load(folder / "images")(x).detach()
    assert float((onnx_runner(out)((x,))[0] - expected).norm() / expected.norm()) < 0.1


@pytest.mark.slow
def test_the_comparison_has_rows_for_int8(folder, capsys, tmp_path):
    call = ["export", str(folder / "sounds"), "--format", "onnx-int8", "--calibrate", str(folder / "noise.wav")]
    assert main([*call, "--out", str(tmp_path / "a.onnx")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "relative error" in "".join(lines)
    rows = {line.split("│")[1].strip(): line for line in lines if line.startswith("│")}
    assert {"dense onnx", "dense onnx int8", "onnx", "onnx int8", "onnx int8 weights"} <= rows.keys()
    assert all("100.00%" in rows[name] for name in ("dense onnx int8", "onnx int8"))


def test_of_many_files_evenly_spaced_ones_are_read(folder, tmp_path):
    for i in range(10):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    made = {"input_size": [1, 8, 8], "mean": [0.0], "std": [1.0]}
    got = read_inputs([tmp_path], made, 4)[:, 0, 0, 0] * 255 / 20
    torch.testing.assert_close(got, torch.tensor([0.0, 2.0, 5.0, 7.0]))
    both = read_inputs([tmp_path / "9.png", tmp_path], made, 99)
    assert both.shape == (11, 1, 8, 8)
    assert float(both[0, 0, 0, 0] * 255) == pytest.approx(180)


@pytest.mark.slow
def test_a_comparison_leaves_out_what_is_too_large(folder, capsys, monkeypatch):
    """A quantised model has no compact form in floating point: its other files are compared all the same."""
    pytest.importorskip("onnxruntime")

    def refuse(path, stored):
        if "int8" not in str(path):
            raise OversizeError("too large")

    monkeypatch.setattr("autosample.export.write.check_size", refuse)
    model, _ = load_any(folder / "images")
    autosample.quantize_(model, 8)
    compared = compare_runtimes(model, torch.randn(1, 1, 8, 8), rounds=2, budget=0.1)
    assert "onnx int8 weights" in compared.sides
    assert "onnx" not in compared.sides


@pytest.mark.parametrize(
    ("size", "shape"), [((1, 1, 64), (2, 1, 64)), ((3, 8, 8), (2, 3, 8, 8))], ids=["signal", "image"]
)
def test_the_example_of_a_net_with_a_conv1d_has_the_shape_of_its_inputs(size, shape):
    net = nn.Conv1d(1, 1, 3)  # nets of images have some too: ECA's attention
    net.pretrained_cfg = {"input_size": size}
    assert _example(net, {}, None, 2).shape == shape


def test_quantize_renews_norms_with_files(folder, capsys, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"pictures/{i:02}.png")
    call = ["quantize", str(folder / "images"), "--bits", "4", "--calibrate", str(tmp_path / "pictures")]
    assert main([*call, "--out", str(tmp_path / "out")]) == 0
    expected = autosample.load(folder / "images")
    autosample.quantize_(expected, 4)
    autosample.renew_norms_(expected, [read_inputs([tmp_path / "pictures"], MADE, 99)])
    got = autosample.load(tmp_path / "out")
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(got.state_dict()[name], value, msg=name)
    assert main([*call[:4], "--calibrate", str(tmp_path / "nothing"), "--out", str(tmp_path / "other")]) == 2
    assert "must be a file" in capsys.readouterr().err
