"""Samples as they come out of files: depths, extreme levels, parts of long files, and what is refused."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
import torch
from data_files import write_tone

from autosample.data import AudioCSV
from autosample.data.clips import read_clip
from autosample.data.files import Limits
from autosample.data.inputs import read_input
from autosample.errors import DataError


def wave(count, channels=1, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, channels)).astype(np.float32)
    return 0.2 * np.cumsum(x, axis=0) / np.sqrt(count)


def refused(path, message, rate=8000, samples=100, **options):
    with pytest.raises(DataError, match=message) as caught:
        read_clip(path, rate, samples, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-31), ("FLOAT", 0)]
)
def test_depths_keep_their_range(tmp_path, subtype, step):
    x = np.linspace(-1, 0.99, 200)
    soundfile.write(tmp_path / "a.wav", x, 8000, subtype=subtype)
    assert np.abs(read_clip(tmp_path / "a.wav", 8000, 200) - x).max() <= step + 1e-7


def test_floats_above_1_are_kept(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([3.0, -2.5, 0.5]), 8000, subtype="DOUBLE")
    assert read_clip(tmp_path / "a.wav", 8000, 3).tolist() == [3.0, -2.5, 0.5]


@pytest.mark.parametrize("scale", [3e38, 1e30, 1e-30, 1e-42])
@pytest.mark.parametrize("rate", [8000, 22050])
def test_extreme_levels_give_the_ordinary_clip(tmp_path, scale, rate):
    x = np.sin(np.arange(900) * 0.07)[:, None] * (1.0, 0.5)
    x /= np.abs(x).max()
    soundfile.write(tmp_path / "usual.wav", x, 8000, subtype="DOUBLE")
    soundfile.write(tmp_path / "odd.wav", (x * scale).astype(np.float32), 8000, subtype="FLOAT")
    for normalize, top in (("peak", 1.0), ("rms", None)):
        want = read_clip(tmp_path / "usual.wav", rate, 600, normalize)
        got = read_clip(tmp_path / "odd.wav", rate, 600, normalize)
        rough = 5e-3 if scale == 1e-42 else 1e-5  # so small numbers have few digits
        assert np.abs(got - want).max() < rough
        assert top is None or np.abs(got).max() == pytest.approx(top)
        assert normalize != "rms" or np.sqrt(np.mean(got.astype(float) ** 2)) == pytest.approx(0.1, rel=1e-4)
    plain = read_clip(tmp_path / "odd.wav", 8000, 900)
    assert np.allclose(plain / scale, x.mean(axis=1), rtol=1e-2 if scale == 1e-42 else 1e-5, atol=1e-3)


def test_what_is_not_finite_is_found_before_resampling(tmp_path):
    for odd in (np.nan, np.inf, 1e300):
        x = np.zeros(100)
        x[50] = odd
        soundfile.write(tmp_path / "a.wav", x, 8000, subtype="DOUBLE")
        for rate in (8000, 16000):
            refused(tmp_path / "a.wav", "samples must be finite", rate, normalize="peak")


@pytest.mark.parametrize(("rate", "to"), [(44100, 16000), (8000, 44100), (22050, 22050), (44101, 16000), (48000, 8000)])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_part_of_a_long_file_is_the_middle_of_the_whole(tmp_path, rate, to, suffix):
    if suffix == "mp3" and rate == 44101:
        rate = 32000
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, wave(3 * rate + 1, 2), rate)
    whole, _ = soundfile.read(path, dtype="float32")
    whole = whole.mean(axis=1)
    whole = whole if rate == to else soxr.resample(whole, rate, to)
    for samples in (1, 1000, to + 1):
        spare = len(whole) - samples
        got = read_clip(path, to, samples)
        assert np.abs(got - whole[spare // 2 : spare // 2 + samples]).max() < 1e-5


def test_an_hour_is_not_read_for_a_second(tmp_path):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8000, 2) as file:
        for _ in range(60):
            file.write(np.zeros((60 * 8000, 2), dtype=np.int16))
    tracemalloc.start()
    assert not read_clip(path, 16000, 16000, "peak").any()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20e6  # the whole has 230 MB
    refused(path, "a sound may last 3,599 s, got 3,600 s: .*max_seconds", limits=Limits(max_seconds=3599))


def test_lengths_of_mp3_are_counted(tmp_path):
    """Headers of MP3 lie, or are missing: then the length is estimated from the file's size."""
    path, at = tmp_path / "a.mp3", np.arange(132_300)
    x = 0.3 * np.sin(at * 0.05) * (at / len(at)) ** 2  # few bits at the beginning, many at the end
    x[66_150:] += 0.3 * np.random.default_rng(0).standard_normal(66_150)
    soundfile.write(path, x, 44100, bitrate_mode="VARIABLE", compression_level=0.5)
    whole, _ = soundfile.read(path, dtype="float32")
    data = bytearray(path.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assert at > 0
    data[at + 8 : at + 12] = struct.pack(">I", 2_000_000)  # frames of 1,152 samples: 14 hours in some kB
    path.write_bytes(data)
    assert soundfile.info(path).duration > 50_000
    tracemalloc.start()
    got = read_clip(path, 44100, 1000)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    spare = len(whole) - 1000
    near = [np.abs(got - whole[k : k + 1000]).max() for k in range(spare // 2 - 1500, spare // 2 + 1500)]
    assert min(near) < 1e-5  # the header also says how many samples at the end do not count
    rate = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[data[2] >> 4]
    path.write_bytes(data[144_000 * rate // 44100 + (data[2] >> 1 & 1) :])  # without its first frame
    frames = soundfile.info(path).frames
    real = len(soundfile.read(path)[0])
    assert frames > real + 10_000
    assert np.abs(read_clip(path, 44100, 1000) - soundfile.read(path)[0][(real - 1000) // 2 :][:1000]).max() < 1e-5


def test_a_flac_that_promises_too_much(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, wave(9000), 44100)
    data = bytearray(path.read_bytes())
    data[21:26] = (data[21] & 0xF0 | 0x0).to_bytes(1, "big") + struct.pack(">I", 2_000_000_000)
    path.write_bytes(data)
    refused(path, r"a\.flac: ", 44100)
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])  # as encoders write it that do not know the length
    path.write_bytes(data)
    refused(path, "a header must say how long the sound is", 44100)


def test_sounds_without_a_sample(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 8000)
    refused(tmp_path / "a.wav", "must have samples, got none")
    soundfile.write(tmp_path / "b.wav", np.ones(1) / 2, 44100)  # less than one sample at 8 kHz
    refused(tmp_path / "b.wav", "must have samples, got none")
    (tmp_path / "c.wav").write_bytes(b"")
    refused(tmp_path / "c.wav", "an empty file")
    os.mkfifo(tmp_path / "d.wav")
    refused(tmp_path / "d.wav", "a pipe")
    refused(write_tone(tmp_path / "e.wav"), "may have 100 bytes, got 1,644", limits=Limits(max_bytes=100))


def test_training_and_prediction_hear_the_same(tmp_path):
    rows = ["path,label"] + [f"{i}.wav,{'ab'[i % 2]}" for i in range(10)]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    for i in range(10):
        soundfile.write(tmp_path / f"{i}.wav", wave(30_000, 2, seed=i), 44100)
    data = AudioCSV(str(tmp_path), sample_rate=16000, seconds=0.3, crop_seconds=0.2, normalize="rms")
    x, _ = next(iter(data.test_dataloader()))
    for row, clip in zip(data.examples.test.tolist(), x, strict=True):
        assert torch.equal(read_input(data.clips.paths[row], data.preprocessing), clip)
