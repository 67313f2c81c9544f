"""Spectrograms, parts of long files, several labels and unreadable files of audio sets."""

import math
import warnings

import numpy as np
import pytest
import soundfile
import soxr
import torch
from data_files import write_esc, write_table, write_tone

from autosample.data import ESC10, AudioCSV, clips
from autosample.data.inputs import read_input
from autosample.data.spectrum import LogMel
from autosample.errors import DataError

MEL = {"n_fft": 64, "hop": 32, "n_mels": 8}
PLAIN = {"sample_rate": 8000, "shift_seconds": 0, "gain_db": 0, "num_workers": 0}


def noise(path, count, seed, rate=8000):
    wave = 0.3 * np.random.default_rng(seed).standard_normal(count)
    soundfile.write(path, wave, rate)


def ramp(path, count, rate=8000):
    """A sound whose samples say where they are: sample i is i / 2^20."""
    soundfile.write(path, np.arange(count, dtype=np.float32) / 2**20, rate, subtype="FLOAT")


@pytest.fixture
def root(tmp_path):
    """Twelve sounds of two classes: eight for training, two for validation, two for testing."""
    parts = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    write_table(
        tmp_path / "metadata.csv",
        [{"path": f"{i}.wav", "label": "ab"[i % 2], "split": part} for i, part in enumerate(parts)],
    )
    for i in range(12):
        noise(tmp_path / f"{i}.wav", 1500 + 100 * i, i)
    return tmp_path


def joined(loader):
    batches = list(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


# --- spectrograms


def test_spectrograms_are_those_of_the_waves(root):
    plain = AudioCSV(str(root), seconds=0.2, crop_seconds=0.15, **PLAIN)
    data = AudioCSV(str(root), seconds=0.2, crop_seconds=0.15, log_mel=MEL, **PLAIN)
    mel = LogMel.of(MEL, 8000)
    assert data.input_shape == (1, 8, 38)
    assert data.preprocessing == {**plain.preprocessing, "input_size": [1, 8, 38], "log_mel": mel.settings()}
    assert "log_mel" not in plain.preprocessing
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        waves, spectra = joined(getattr(plain, name)()), joined(getattr(data, name)())
        torch.testing.assert_close(spectra[0], mel(waves[0]))
        assert torch.equal(spectra[1], waves[1])


def test_spectrograms_do_not_depend_on_where_they_are_made(root):
    options = {"seconds": 0.2, "crop_seconds": 0.15, "log_mel": MEL, "freq_mask": 3, "time_mask": 9, "batch_size": 4}
    known = joined(AudioCSV(str(root), sample_rate=8000, **options).train_dataloader())
    again = joined(AudioCSV(str(root), sample_rate=8000, resident=False, num_workers=0, **options).train_dataloader())
    assert all(map(torch.equal, known, again))
    assert (known[0] == 0).any()  # masks


def test_masks_are_for_training_only(root):
    masked = AudioCSV(str(root), seconds=0.2, log_mel=MEL, freq_mask=8, time_mask=40, masks=2, **PLAIN)
    plain = AudioCSV(str(root), seconds=0.2, log_mel=MEL, **PLAIN)
    assert torch.equal(joined(masked.test_dataloader())[0], joined(plain.test_dataloader())[0])
    x, bare = joined(masked.train_dataloader())[0], joined(plain.train_dataloader())[0]
    hidden = (x != bare).flatten(1).any(1)
    assert hidden.sum() >= 6
    assert (x[x != bare] == 0).all()


@pytest.mark.parametrize("from_files", [False, True])
def test_training_and_prediction_hear_the_same(root, from_files):
    data = AudioCSV(str(root), seconds=0.2, crop_seconds=0.15, log_mel=MEL, from_files=from_files, **PLAIN)
    x, _ = joined(data.test_dataloader())
    for row, clip in zip(data.examples.test.tolist(), x, strict=True):
        torch.testing.assert_close(read_input(data.clips.paths[row], data.preprocessing), clip)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freq_mask": 2}, "masks need spectrograms, got freq_mask=2, time_mask=0: set log_mel"),
        ({"log_mel": MEL, "freq_mask": 9}, "at most as wide as the spectrograms, 8, got 9"),
        ({"log_mel": {"n_ftt": 9}}, 'no setting "n_ftt": did you mean "n_fft"'),
        ({"log_mel": {}, "seconds": 0.1}, "as long as a frame of log_mel, 1024 samples, got 800: use longer clips"),
        ({"on_bad": "ignore"}, 'on_bad must be "raise" or "skip", got "ignore"'),
        ({"separator": " "}, "separator must be a sign, such as \",\", got ' '"),
    ],
)
def test_an_option_that_cannot_be_is_said_at_once(options, said):
    with pytest.raises(DataError, match=said) as caught:
        AudioCSV("nowhere", sample_rate=8000, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


# --- parts of files


@pytest.mark.parametrize(("rate", "to"), [(44100, 16000), (8000, 44100), (22050, 22050), (48000, 8000)])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_any_part_is_that_of_the_whole(tmp_path, rate, to, suffix):
    path = tmp_path / f"a.{suffix}"
    wave = np.cumsum(np.random.default_rng(0).standard_normal((2 * rate + 1, 2)), axis=0)
    soundfile.write(path, 0.2 * wave / np.abs(wave).max(), rate)
    whole, _ = soundfile.read(path, dtype="float32")
    whole = whole.mean(axis=1)
    whole = whole if rate == to else soxr.resample(whole, rate, to)
    spare = len(whole) - 1000
    for place, start in ((0, 0), (0.3, int(0.3 * (spare + 1))), (0.999, int(0.999 * (spare + 1))), (1, spare)):
        got = clips.read_clip(path, to, 1000, place=place)
        assert np.abs(got - whole[start : start + 1000]).max() < 1e-5


def test_every_part_comes_equally_often(tmp_path):
    ramp(tmp_path / "a.wav", 14)
    starts = [clips.read_clip(tmp_path / "a.wav", 8000, 10, place=i / 200)[0] * 2**20 for i in range(200)]
    assert [starts.count(start) for start in range(5)] == [40] * 5


@pytest.fixture
def frames_read(monkeypatch):
    """Numbers of frames, one for each time that a file is read."""
    found = []
    read = soundfile.SoundFile.read

    def counted(self, *args, **kwargs):
        made = read(self, *args, **kwargs)
        found.append(len(made))
        return made

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    return found


@pytest.mark.parametrize("rate", [8000, 44100])
def test_only_the_part_is_read(tmp_path, frames_read, rate):
    for i in range(4):
        ramp(tmp_path / f"{i}.wav", 20 * rate, rate)
    rows = [{"path": f"{i}.wav", "label": "ab"[i % 2], "split": ("train", "test")[i // 2]} for i in range(4)]
    write_table(tmp_path / "metadata.csv", rows)
    data = AudioCSV(str(tmp_path), from_files=True, crop_seconds=0.1, val_fraction=0, batch_size=2, **PLAIN)
    assert data.sizes == {"train": 2, "val": 2, "test": 2}
    assert frames_read == []
    for loader in (data.train_dataloader(), data.test_dataloader()):
        frames_read.clear()
        x, _ = joined(loader)
        assert x.shape == (2, 1, 800)
        # a tenth of a second, and what the filter needs on both sides, 500 samples at the lower rate
        margin = 0 if rate == 8000 else 2 * 500 / 8000 + 0.02
        assert sum(frames_read) <= 2 * math.ceil(rate * (0.1 + margin))


def test_training_hears_other_parts_in_each_epoch(tmp_path):
    for i in range(6):
        ramp(tmp_path / f"{i}.wav", 4000)
    rows = [{"path": f"{i}.wav", "label": "ab"[i % 2], "split": ("train", "test")[i // 4]} for i in range(6)]
    write_table(tmp_path / "metadata.csv", rows)
    options = {"from_files": True, "seconds": 0.1, "normalize": "none", "val_fraction": 0, "batch_size": 2, **PLAIN}
    data, seen = AudioCSV(str(tmp_path), **options), []
    for data.epoch in range(3):
        x, _ = joined(data.train_dataloader())
        starts = x[:, 0, 0] * 2**20
        assert torch.equal(x[:, 0] * 2**20, starts[:, None] + torch.arange(800.0))
        first, _ = joined(AudioCSV(str(tmp_path), **options).train_dataloader())
        assert torch.equal(x, first) == (data.epoch == 0)
        seen += starts.tolist()
    assert len(set(seen)) == 12
    assert 0 <= min(seen) < 1200
    assert 2000 < max(seen) <= 3200
    tested = joined(data.test_dataloader())[0]
    assert torch.equal(tested[:, 0, 0] * 2**20, torch.full((2,), 1600.0))


@pytest.mark.slow
def test_workers_read_the_same(root):
    options = {"from_files": True, "seconds": 0.1, "log_mel": MEL, "time_mask": 5, "batch_size": 3, "sample_rate": 8000}
    known = joined(AudioCSV(str(root), num_workers=0, **options).train_dataloader())
    assert all(map(torch.equal, known, joined(AudioCSV(str(root), num_workers=1, **options).train_dataloader())))


def test_files_and_cache_give_the_same_clips(root):
    cached, read = (AudioCSV(str(root), seconds=0.2, from_files=files, **PLAIN) for files in (False, True))
    for name in ("val_dataloader", "test_dataloader"):
        assert all(map(torch.equal, joined(getattr(cached, name)()), joined(getattr(read, name)())))
    assert read.preprocessing == cached.preprocessing
    assert isinstance(read.examples.x, list)


# --- several labels


def several(folder, labels, split=None):
    rows = [{"path": f"{i}.wav", "label": label} for i, label in enumerate(labels)]
    if split:
        rows = [row | {"split": part} for row, part in zip(rows, split, strict=True)]
    for row in rows:
        write_tone(folder / row["path"], seconds=0.02)
    return write_table(folder / "metadata.csv", rows).parent


def test_several_labels_a_clip(tmp_path):
    folder = several(tmp_path, ["dog, rain", "cat", "rain,cat,dog", "rain", "dog,dog"], ["train"] * 4 + ["test"])
    data = AudioCSV(str(folder), separator=",", val_fraction=0, seconds=0.02, batch_size=4, **PLAIN)
    assert data.class_names == ("cat", "dog", "rain")
    assert data.multilabel
    wanted = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    assert torch.equal(data.examples.y, wanted)
    _, y = joined(data.train_dataloader())
    assert y.dtype == torch.bool
    assert sorted(y.int().tolist()) == sorted(wanted[:4].int().tolist())
    assert not AudioCSV(str(folder), seconds=0.02, **PLAIN).multilabel
    assert AudioCSV(str(folder)).class_names == ("cat", "dog, rain", "dog,dog", "rain", "rain,cat,dog")


def test_every_label_keeps_an_example(tmp_path):
    labels = ["a"] * 20 + ["a|b"] * 6 + ["b|c"] * 2 + ["a|c"]
    data = AudioCSV(str(several(tmp_path, labels)), separator="|", seconds=0.02, test_fraction=0.3, **PLAIN)
    parts = {name: data.examples.y[getattr(data.examples, name)].sum(0).tolist() for name in ("train", "val", "test")}
    assert all(parts["train"])
    assert all(parts["test"])
    assert sum(data.sizes.values()) == len(labels)


@pytest.mark.parametrize(
    ("labels", "split", "said"),
    [
        (["a,b", "b,zebra"], ["train", "test"], "each class must have a training example, got none for zebra"),
        (["a,,b", "a"], ["train", "test"], "labels must not be empty, got 'a,,b' in row 2"),
        (["a,1", "a,01"], ["train", "test"], "must be written in one way, got 01 and 1"),
        (["a", "b"], ["train", "dev"], "split must be train, val or test, got 'dev' in row 3"),
    ],
)
@pytest.mark.parametrize("from_files", [False, True])
def test_tables_of_several_labels_that_cannot_be(tmp_path, labels, split, said, from_files):
    folder = several(tmp_path, labels, split)
    with pytest.raises(DataError, match=said) as caught:
        AudioCSV(str(folder), separator=",", from_files=from_files).setup()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


# --- files that cannot be read


@pytest.fixture
def damaged(root):
    """Training sound 3 and test sound 10 are no sounds."""
    for i in (3, 10):
        (root / f"{i}.wav").write_bytes(b"RIFF broken")
    return root


def test_unreadable_sounds_are_counted_and_left_out(damaged):
    options = {"seconds": 0.1, "on_bad": "skip", **PLAIN}
    said = r"sounds that could not be read: 2 of 12; they are left out; the first: .*3\.wav: not a readable audio file"
    for _ in range(2):  # decoded, and from the cache
        data = AudioCSV(str(damaged), **options)
        with pytest.warns(UserWarning, match=said) as told:
            data.setup()
        assert data.sizes == {"train": 7, "val": 2, "test": 1}
        assert len(told) == 1
        assert told[0].filename == __file__
        x, y = joined(data.test_dataloader())
        assert torch.equal(x[0, 0], torch.from_numpy(clips.read_clip(damaged / "11.wav", 8000, 800, "peak")))
        assert y.tolist() == [1]
        assert torch.isfinite(joined(data.train_dataloader())[0]).all()
        with pytest.raises(DataError, match=r"3\.wav: not a readable audio file"):
            data.predict_dataloader()
    with pytest.raises(DataError, match=r"(3|10)\.wav: not a readable audio file"):
        AudioCSV(str(damaged), seconds=0.1, **PLAIN).setup()
    noise(damaged / "3.wav", 1000, 3)
    noise(damaged / "10.wav", 1000, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert AudioCSV(str(damaged), **options).sizes == {"train": 8, "val": 2, "test": 2}


def test_a_class_without_readable_sounds_stops(root):
    for i in range(0, 8, 2):
        (root / f"{i}.wav").write_text("broken")
    with (
        pytest.warns(UserWarning, match="could not be read: 4 of 12"),
        pytest.raises(DataError, match="each class must have a training example, got none for a"),
    ):
        AudioCSV(str(root), seconds=0.1, on_bad="skip", **PLAIN).setup()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_unreadable_sounds_are_replaced_where_files_are_read(damaged, workers):
    options = {**PLAIN, "seconds": 0.1, "from_files": True, "num_workers": workers, "batch_size": 2}
    data = AudioCSV(str(damaged), on_bad="skip", **options)
    with pytest.warns(UserWarning, match=r"sounds of epoch 0 that could not be read: 1; .*10\.wav: not a readable"):
        x, y = joined(data.test_dataloader())
    assert y.tolist() == [1, 1]  # the label of the one behind it
    assert torch.equal(x[0], x[1])
    data.epoch = 2
    with pytest.warns(UserWarning, match=r"sounds of epoch 2 that could not be read: 1; .*3\.wav"):
        x, y = joined(data.train_dataloader())
    assert sorted(y.tolist()) == [0, 0, 0, 0, 0, 1, 1, 1]  # sound 4 twice
    with pytest.raises(DataError, match=r"10\.wav: not a readable"):
        list(data.predict_dataloader())
    with pytest.raises(DataError, match=r"10\.wav: not a readable"):
        list(AudioCSV(str(damaged), **options).test_dataloader())


def test_half_a_download_is_one_line(tmp_path):
    folder = write_esc(tmp_path / "ESC-10", range(0, 50, 5), takes=1)
    for path in sorted((folder / "audio").iterdir())[::2]:
        path.unlink()
    with pytest.raises(DataError, match=r"50 of 100 files listed in .*csv are missing, first .*unpack the set again"):
        ESC10(str(folder)).setup()
    (folder / "audio").rename(folder / "sounds")
    with pytest.raises(DataError, match="100 of 100 files listed"):
        ESC10(str(folder)).setup()


@pytest.mark.data
def test_real_spectrograms_have_about_mean_0_and_deviation_1(real_data):
    data = ESC10(real_data, log_mel={}, batch_size=80)
    x, _ = next(iter(data.test_dataloader()))
    assert abs(float(x.mean())) < 0.5
    assert 0.7 < float(x.std()) < 1.4
