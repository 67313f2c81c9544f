"""`autosample predict` with odd files: what it prints, what it refuses, and its limits."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn

import autosample.artifact
from autosample.cli.main import main
from autosample.data.inputs import read_input
from autosample.errors import AutosampleError

PIXELS = {"input_size": [1, 4, 4], "mean": [0.0], "std": [1.0]}
SOUND = {"sample_rate": 8000, "samples": 80, "crop": 40, "normalize": "none"}


class Mean(nn.Module):
    """The first class is sure if the mean of the input is 1."""

    def forward(self, x):
        mean = x.mean().clamp(1e-6, 1 - 1e-6)
        return torch.stack([mean, 1 - mean])[None].log()


@pytest.fixture
def predict(monkeypatch, capsys, tmp_path):
    """Exit code, standard output and error of the verb, with a model that tells the mean of its input."""

    def call(preprocessing, *args, facts=None):
        config = SimpleNamespace(preprocessing=preprocessing, class_names=("mean\n\x1b[2J", "rest"), facts=facts or {})
        monkeypatch.setattr(autosample.artifact, "load_any", lambda folder, factory: (Mean(), config))
        code = main(["predict", str(tmp_path), *map(str, args)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        (np.full((9, 9), 0.25, dtype=np.float32), ".tif"),
        (np.full((9, 9), 16384, dtype=np.uint16), ".png"),
        (np.full((9, 9), 64, dtype=np.uint8), ".webp"),
        (np.full((9, 9, 4), (64, 64, 64, 0), dtype=np.uint8), ".png"),
    ],
)
def test_a_quarter_grey_is_a_quarter(predict, tmp_path, pixels, suffix):
    Image.fromarray(pixels).save(tmp_path / f"x{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    code, out, _ = predict(PIXELS, tmp_path / f"x{suffix}", "--top", 1)
    assert code == 0
    assert out.endswith("rest 74.9 %\n")  # 1 - 64 / 255


def test_names_that_are_not_utf_8_have_a_line_each(predict, tmp_path):
    for name in (b"caf\xe9.png", b"two\nlines.png"):
        Image.new("L", (4, 4), 255).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / os.fsdecode(name))
    code, out, _ = predict(PIXELS, *sorted(tmp_path.glob("*.png")))
    assert code == 0
    assert [line.partition(": ")[0] for line in out.splitlines()] == [
        f"{tmp_path}/caf\\udce9.png",
        f"{tmp_path}/two\\nlines.png",
    ]
    assert out.count("mean\\n\\x1b[2J 100.0 %") == 2


def test_limits(predict, tmp_path):
    Image.new("L", (40, 40)).save(tmp_path / "x.png")
    soundfile.write(tmp_path / "x.wav", np.zeros(16000), 8000)
    for made, name, option, said in (
        (PIXELS, "x.png", ("--max_pixels", 1599), "an image may have 1,599 pixels, got 40×40"),
        (SOUND, "x.wav", ("--max_seconds", 1.9), "a sound may last 1.9 s, got 2 s"),
        (SOUND, "x.wav", ("--max_bytes", 1000), "a file may have 1,000 bytes, got 32,044"),
        (SOUND, "x.wav", ("--max_bytes", 0), "max_bytes must be above 0, got 0"),
    ):
        code, out, err = predict(made, tmp_path / name, *option)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
    assert predict(PIXELS, tmp_path / "x.png", "--max_pixels", 1600)[0] == 0


def test_bombs_and_pipes(predict, tmp_path):
    header = b"P5 60000 60000 255\n"
    (tmp_path / "bomb.pgm").write_bytes(header + bytes(100))
    os.mkfifo(tmp_path / "pipe.png")
    for name, said in (("bomb.pgm", "may have 89,478,485 pixels, got more"), ("pipe.png", "a pipe")):
        code, _, err = predict(PIXELS, tmp_path / name)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err
        assert len(err) < 320


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": [1, 10**9, 10**9]},
        {"input_size": [1, 10**5, 10**5]},
        {"input_size": [7, 4, 4]},
        {"input_size": ["1", 4, 4]},
        {"input_size": 3},
        {"mean": [0.1, 0.2]},
        {"std": None},
        {"interpolation": "none"},
        {"crop_pct": "all"},
        {"crop_pct": 1e-9},
        {"crop_pct": 1e-4},
        {"crop_mode": "border", "mean": "x"},
        {"sample_rate": 0},
        {"sample_rate": 8000, "samples": 2**45},
        {"sample_rate": 8000, "samples": 80, "crop": 81},
        {"sample_rate": 8000, "samples": 80, "normalize": ["peak"]},
    ],
)
def test_preprocessing_that_is_not_usable(tmp_path, change):
    Image.new("L", (40, 40)).save(tmp_path / "x.png")
    soundfile.write(tmp_path / "x.wav", np.zeros(16000), 8000)
    name = "x.wav" if "sample_rate" in change else "x.png"
    with pytest.raises(AutosampleError) as caught:
        read_input(tmp_path / name, PIXELS | change)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_several_classes_have_a_probability_each(predict, tmp_path):
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(tmp_path / "x.png")
    facts = {"multilabel": True}
    code, out, _ = predict(PIXELS, tmp_path / "x.png", facts=facts)
    assert code == 0
    # the scores are logarithms of 1 and 0: sigmoid(0) and sigmoid(log 1e-6)
    assert out.endswith("mean\\n\\x1b[2J 50.0 %, rest 0.0 %\n")


@pytest.mark.parametrize(
    "log_mel", [{"n_fft": 32, "hop": 8, "n_mels": 4}, {"n_fft": "32"}, {"n_fft": 41}, [], {"x": 1}]
)
def test_spectrograms_are_made_or_refused(tmp_path, log_mel):
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).standard_normal(100) / 10, 8000)
    if log_mel == {"n_fft": 32, "hop": 8, "n_mels": 4}:
        assert read_input(tmp_path / "x.wav", SOUND | {"log_mel": log_mel}).shape == (1, 4, 6)
        return
    with pytest.raises(AutosampleError, match=r"log_mel|frame") as caught:
        read_input(tmp_path / "x.wav", SOUND | {"log_mel": log_mel})
    assert "\n" not in str(caught.value)
