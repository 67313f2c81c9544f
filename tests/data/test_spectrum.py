"""Log-mel spectrograms against the formula in float64, frame by frame."""

import pickle

import numpy as np
import pytest
import torch

from autosample.data.spectrum import LogMel
from autosample.errors import DataError


def formula(x, rate, n_fft, hop, n_mels, low=0.0, high=None):
    """The power in each mel band of one clip [dB], (n_mels, frames): discrete Fourier sums and HTK's mel scale."""
    n = np.arange(n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / n_fft)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), n) / n_fft)
    x = np.pad(x.astype(np.float64), n_fft // 2, mode="reflect")
    frames = [x[i : i + n_fft] for i in range(0, len(x) - n_fft + 1, hop)]
    power = np.abs(waves @ (np.array(frames) * window).T) ** 2
    ends = 2595 * np.log10(1 + np.array([low, rate / 2 if high is None else high]) / 700)
    edges = 700 * (10 ** (np.linspace(*ends, n_mels + 2) / 2595) - 1)
    made = np.zeros((n_mels, power.shape[1]))
    for band, (left, middle, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for k in range(n_fft // 2 + 1):
            hertz = k * rate / n_fft
            if left < hertz < right:
                up, down = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
                made[band] += power[k] * (up if hertz <= middle else down)
    return 10 * np.log10(np.maximum(made, 1e-10))


@pytest.mark.parametrize(
    ("rate", "options", "samples"),
    [
        (8000, {"n_fft": 256, "hop": 100, "n_mels": 20}, 1000),
        (22050, {"n_fft": 400, "hop": 160, "n_mels": 40, "f_min": 50, "f_max": 8000}, 1600),
        (16000, {"n_fft": 255, "hop": 255, "n_mels": 16}, 1020),
        (8000, {"n_fft": 256, "hop": 64, "n_mels": 20}, 256),  # a single frame's length
    ],
)
def test_it_is_the_formula(rate, options, samples):
    x = 0.1 * np.random.default_rng(0).standard_normal((3, samples)).astype(np.float32)
    made = LogMel(sample_rate=rate, **options, mean=-30, std=15)
    got = made(torch.from_numpy(x)[:, None])
    names = {"f_min": "low", "f_max": "high"}
    wanted = [formula(one, rate, **{names.get(key, key): value for key, value in options.items()}) for one in x]
    assert got.shape == (3, 1, *made.shape(samples)) == (3, 1, *wanted[0].shape)
    assert got.dtype == torch.float32
    assert np.abs(15 * got[:, 0].double().numpy() - 30 - wanted).max() < 1e-3  # decibels


def test_silence_is_100_decibels_below_and_a_tone_is_in_its_band():
    mel = LogMel(sample_rate=8000, n_fft=256, hop=128, n_mels=24, mean=-50, std=10)
    assert torch.equal(mel(torch.zeros(1, 1, 800)), torch.full((1, 1, 24, 7), -5.0))
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 8000).view(1, 1, -1)
    loudest = mel(tone)[0, 0].argmax(0)
    edges = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 26)
    nearest = np.abs(edges[1:-1] - 2595 * np.log10(1 + 1000 / 700)).argmin()
    assert set(loudest.tolist()) == {nearest}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_the_arithmetic_is_in_float32(kind):
    mel = LogMel(sample_rate=8000, n_fft=256, hop=128, n_mels=24)
    x = torch.randn(2, 1, 800)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mel(x), LogMel(sample_rate=8000, n_fft=256, hop=128, n_mels=24)(x))
    assert mel(x.to(kind)).dtype == torch.float32
    assert torch.equal(mel(x.to(kind)), mel(x.to(kind).float()))


@pytest.mark.gpu
def test_a_gpu_gives_the_same():
    mel, x = LogMel(sample_rate=16000), torch.randn(4, 1, 16000)
    torch.testing.assert_close(mel(x.cuda()).cpu(), mel(x), rtol=0, atol=1e-3)


def test_settings_are_plain_data_and_come_back():
    mel = LogMel(sample_rate=16000, n_fft=512, n_mels=40, f_max=7000)
    assert LogMel.of(mel.settings(), 16000) == mel
    assert pickle.loads(pickle.dumps(mel)) == mel  # workers that are started anew
    assert LogMel.of({}, 16000) == LogMel(sample_rate=16000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nmels": 64}, 'log_mel has no setting "nmels": did you mean "n_mels"'),
        ({"sample_rate": 8000}, 'log_mel has no setting "sample_rate"'),
        ({"n_mels": 0}, "log_mel.n_mels must be a whole number from 1 to 1024, got 0"),
        ({"n_mels": "64"}, "log_mel.n_mels must be a whole number from 1 to 1024, got '64'"),
        ({"n_fft": 2**20}, "log_mel.n_fft must be a whole number from 1 to 65536, got 1048576"),
        ({"n_fft": 100, "hop": 101}, "log_mel.hop must be a whole number from 1 to 100, got 101"),
        ({"n_fft": True}, "log_mel.n_fft must be a whole number from 1 to 65536, got True"),
        ({"std": 0}, "log_mel.std must be above 0, got 0"),
        ({"mean": None}, "log_mel.mean must be a number, got None"),
        ({"mean": float("nan")}, "log_mel.mean must be a number, got nan"),
        ({"f_max": 9000}, "0 <= f_min < f_max <= 8000 Hz, half the sample rate, got 0 and 9000"),
        ({"f_min": 500, "f_max": 400}, "got 500 and 400"),
        (
            {"n_fft": 64, "hop": 32, "n_mels": 64},
            r"each band .* must hold a frequency .*, got \d+ of 64 without: lower n_mels",
        ),
        ([1], r"log_mel must be a mapping, such as \{n_mels: 64\}, got \[1\]"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(DataError, match=said) as caught:
        LogMel.of(settings, 16000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_clips_that_do_not_fit():
    with pytest.raises(DataError, match="at least as long as a frame of log_mel, 1024 samples, got 1023: use longer"):
        LogMel(sample_rate=8000)(torch.zeros(1, 1, 1023))
    with pytest.raises(DataError, match=r"may have 1,073,741,824 numbers, got 8,000,001 frames of 1024: raise hop"):
        LogMel(sample_rate=8000, hop=1).shape(8_000_000)
