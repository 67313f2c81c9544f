import csv
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from data_files import write_esc, write_table, write_tone

from autosample.data import ESC10, ESC50, AudioCSV, SpokenDigits, UrbanSound8K, clips
from autosample.errors import DataError


@pytest.fixture(scope="module")
def esc(tmp_path_factory):
    return write_esc(tmp_path_factory.mktemp("esc") / "ESC-50", range(50), takes=1, suffix=".ogg")


@pytest.fixture(scope="module")
def esc10(tmp_path_factory):
    return write_esc(tmp_path_factory.mktemp("esc10") / "ESC-10", range(0, 50, 5), takes=4)


FAST = {"sample_rate": 8000, "seconds": 0.02}


def peak_hertz(clip, rate):
    spectrum = np.abs(np.fft.rfft(clip * np.hanning(len(clip))))
    return spectrum.argmax() * rate / len(clip)


@pytest.mark.parametrize(("suffix", "rate", "channels"), [("wav", 44100, 2), ("flac", 8000, 1), ("ogg", 22050, 3)])
def test_reads_formats_rates_and_channels(tmp_path, suffix, rate, channels):
    path = write_tone(tmp_path / f"a.{suffix}", rate, 1.0, 1000.0, channels)
    clip = clips.read_clip(path, 16000, 16000)
    assert clip.shape == (16000,)
    assert clip.dtype == np.float32
    assert abs(peak_hertz(clip, 16000) - 1000) < 2
    assert abs(np.abs(clip[2000:-2000]).max() - 0.5) < (0.05 if suffix == "ogg" else 0.005)  # Ogg loses some


def test_length_is_cut_and_padded_about_the_middle(tmp_path):
    ramp = np.arange(1, 101, dtype=np.float32) / 200
    soundfile.write(tmp_path / "a.wav", ramp, 8000, subtype="FLOAT")
    assert np.array_equal(clips.read_clip(tmp_path / "a.wav", 8000, 40), ramp[30:70])
    padded = clips.read_clip(tmp_path / "a.wav", 8000, 111)
    assert np.array_equal(padded[5:105], ramp)
    assert not padded[:5].any()
    assert not padded[105:].any()


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, -0.25]] * 50, dtype=np.float32), 8000, subtype="FLOAT")
    assert np.allclose(clips.read_clip(tmp_path / "a.wav", 8000, 50), 0.125)


def test_levels(tmp_path):
    path = write_tone(tmp_path / "a.wav", 8000, 0.5)
    assert np.abs(clips.read_clip(path, 8000, 8000, "peak")).max() == pytest.approx(1, abs=1e-6)
    # silence added around a short file does not count
    assert np.sqrt(np.mean(clips.read_clip(path, 8000, 8000, "rms")[2000:6000] ** 2)) == pytest.approx(0.1, rel=1e-4)
    soundfile.write(tmp_path / "b.wav", np.zeros(100), 8000)
    assert not clips.read_clip(tmp_path / "b.wav", 8000, 100, "rms").any()


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.full(10, np.nan), 8000, subtype="FLOAT")
    for name, message in (
        ("text", "not a readable"),
        ("none", "not a readable"),
        ("empty", "got none"),
        ("nan", "finite"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.wav: .*{message}") as caught:
            clips.read_clip(tmp_path / f"{name}.wav", 8000, 10)
        assert "\n" not in str(caught.value)


def test_esc50_folds_are_disjoint_and_complete(esc):
    sets = [ESC50(str(esc), fold=fold, **FAST) for fold in ESC50.folds()]
    tests = [set(data.clips.test) for data in sets]
    assert sorted(row for rows in tests for row in rows) == list(range(len(sets[0].clips.paths)))
    with (esc / "meta" / "esc50.csv").open() as file:
        official = [int(row["fold"]) for row in csv.DictReader(file)]
    for fold, data in enumerate(sets, 1):
        assert {official[row] for row in data.clips.test} == {fold}
        assert not set(data.clips.train) & set(data.clips.test)
        assert len(data.clips.train) + len(data.clips.test) == 500
    assert sets[0].num_classes == 50
    assert sets[0].class_names[7] == "c7"
    assert sets[0].input_shape == (1, 160)


def test_esc_validation_comes_from_the_training_folds(esc10):
    data = ESC10(str(esc10), fold=2, batch_size=16, **FAST)
    data.setup()
    examples = data.examples
    assert data.sizes == {"train": 300, "val": 20, "test": 80}
    parts = [set(rows.tolist()) for rows in (examples.train, examples.val, examples.test)]
    assert len(set.union(*parts)) == 400 == sum(map(len, parts))
    assert not set(parts[1]) & set(data.clips.test)
    assert Counter(examples.y[examples.val].tolist()) == dict.fromkeys(range(10), 2)
    recordings = [{data.clips.groups[row] for row in part} for part in parts[:2]]
    assert not recordings[0] & recordings[1]
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (16, 1, 160)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64


def test_esc_without_validation_has_none(esc10):
    data = ESC10(str(esc10), val_fraction=0, **FAST)
    assert data.val_dataloader() == []
    assert data.sizes == {"train": 320, "val": 0, "test": 80}


def test_esc10_is_part_of_esc50(esc, esc10):
    from_50, from_10 = ESC10(str(esc.parent), **FAST), ESC10(str(esc10.parent), **FAST)
    assert from_50.num_classes == 10
    assert from_50.class_names == from_10.class_names
    assert ESC50(str(esc), esc10=True, **FAST).class_names == from_10.class_names
    with pytest.raises(DataError, match="must list 50 classes, got 10"):
        _ = ESC50(str(esc10), **FAST).num_classes


def test_cached_reading_equals_uncached(esc10, tmp_path):
    plain = clips.read_clips(ESC10(str(esc10)).clips.paths, esc10, None, 8000, 160, "peak")
    options = FAST | {"cache_dir": str(tmp_path / "cache")}
    first, second = (ESC10(str(esc10), **options).examples.x for _ in range(2))
    assert torch.equal(first, torch.from_numpy(plain))
    assert torch.equal(first, second)
    (npy,) = (tmp_path / "cache").glob("*/*.npy")
    npy.write_bytes(npy.read_bytes()[:-9])
    assert torch.equal(ESC10(str(esc10), **options).examples.x, first)


def test_changed_file_is_decoded_again(tmp_path):
    write_table(tmp_path / "metadata.csv", [{"path": f"{i}.wav", "label": i % 2} for i in range(6)])
    for i in range(6):
        write_tone(tmp_path / f"{i}.wav")
    before = AudioCSV(str(tmp_path)).examples.x
    assert (tmp_path / ".autosample-cache").is_dir()
    write_tone(tmp_path / "3.wav", hertz=1000, seconds=0.2)
    after = AudioCSV(str(tmp_path)).examples.x
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, True, False, True, True]


def test_crop_shift_and_gain(esc10):
    data = ESC10(str(esc10), crop_seconds=0.01, shift_seconds=0.001, gain_db=0, batch_size=8, **FAST)
    assert data.input_shape == (1, 80)
    assert next(iter(data.train_dataloader()))[0].shape == (8, 1, 80)
    x, _ = next(iter(data.test_dataloader()))
    assert torch.equal(x, data.examples.x[data.examples.test[:8]][..., 40:120])
    plain = ESC10(str(esc10), shift_seconds=0, gain_db=0, drop_last=False, **FAST)
    got = torch.cat([x for x, _ in plain.train_dataloader()])
    torch.testing.assert_close(got.sum(), plain.examples.x[plain.examples.train].sum(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("below", ["fsdd/recordings", "recordings", "."])
def test_spoken_digits(tmp_path, below):
    for digit in range(10):
        for take in (0, 4, 5, 6, 12):
            write_tone(tmp_path / below / f"{digit}_theo_{take}.wav")
    (tmp_path / below / "README.md").write_text("not a clip")
    data = SpokenDigits(str(tmp_path), val_fraction=0)
    assert data.sizes == {"train": 30, "val": 20, "test": 20}
    assert data.input_shape == (1, 8000)
    names = [data.clips.paths[row].stem for row in data.examples.test]
    assert {name.split("_")[2] for name in names} == {"0", "4"}
    assert [int(name[0]) for name in names] == data.examples.y[data.examples.test].tolist()


def test_urban_sound(tmp_path):
    rows = []
    for fold in range(1, 11):
        for label, name in ((3, "dog_bark"), (0, "air_conditioner")):
            rows.append({"slice_file_name": f"{fold}{label}-{label}-0-0.wav", "fold": fold, "classID": label})
            rows[-1]["class"] = name
            write_tone(tmp_path / "UrbanSound8K" / "audio" / f"fold{fold}" / rows[-1]["slice_file_name"])
    write_table(tmp_path / "UrbanSound8K" / "metadata" / "UrbanSound8K.csv", rows)
    data = UrbanSound8K(str(tmp_path), fold=10, sample_rate=8000, seconds=0.1)
    assert data.class_names == ("air_conditioner", "dog_bark")
    assert data.folds() == tuple(range(1, 11))
    assert data.sizes == {"train": 16, "val": 2, "test": 2}
    with pytest.raises(DataError, match=r"fold must be one of 1..10, got 11"):
        UrbanSound8K(str(tmp_path), fold=11)


def csv_set(folder, rows):
    for row in rows:
        write_tone(folder / row["path"])
    return write_table(folder / "metadata.csv", rows).parent


def test_csv_with_splits_folds_and_neither(tmp_path):
    rows = [{"path": f"{i}.wav", "label": "ab"[i % 2]} for i in range(20)]
    data = AudioCSV(str(csv_set(tmp_path / "plain", rows)))
    assert data.sizes == {"train": 14, "val": 2, "test": 4}
    assert data.class_names == ("a", "b")
    names = ["train", "train", "test", "test", "Validation", "valid", "train", "train"]
    split = [row | {"split": part} for row, part in zip(rows, names, strict=False)]
    assert AudioCSV(str(csv_set(tmp_path / "split", split))).sizes == {"train": 4, "val": 2, "test": 2}
    fold = csv_set(tmp_path / "fold", [row | {"fold": i // 5} for i, row in enumerate(rows)])
    assert AudioCSV(str(fold), fold=3, val_fraction=0).sizes == {"train": 15, "val": 0, "test": 5}
    with pytest.raises(DataError, match=r"fold must be one of \[0, 1, 2, 3\], got None"):
        AudioCSV(str(fold)).setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,name\na.wav,x\n", "columns path, label, got no label"),
        ("", "got an empty file"),
        ("\n", "got no path, label"),
        ("path,label\n", "at least one file"),
        ("path,label\na.wav,\n", "empty field in row 2"),
        ("path,label\na.wav,x\na.wav,x\n", "each file once, got .*a.wav"),
        ("path,label\na.wav,x\nb.wav,x\nc.wav,x\n", r"2 of 3 files listed in .* are missing, first .*b\.wav"),
        ("path,label,split\na.wav,x,dev\n", "split must be train, val or test, got 'dev' in row 2"),
        ("path,label,split\na.wav,x,train\n", "at least one test example"),
        ("path,label,fold\na.wav,x,one\n", "whole numbers, got 'one'"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    write_tone(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        AudioCSV(str(tmp_path)).setup()
    assert "\n" not in str(caught.value)


def test_class_without_training_example(tmp_path):
    rows = [{"path": "a.wav", "label": "x", "split": "train"}, {"path": "b.wav", "label": "y", "split": "test"}]
    with pytest.raises(DataError, match="training example, got none for y"):
        AudioCSV(str(csv_set(tmp_path, rows))).setup()


def test_unreadable_file_in_a_set_is_named(tmp_path):
    csv_set(tmp_path, [{"path": f"{i}.wav", "label": "x"} for i in range(5)])
    (tmp_path / "3.wav").write_text("broken")
    with pytest.raises(DataError, match=r"3\.wav: not a readable"):
        AudioCSV(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: ESC50(r, fold=7), "fold must be one of 1..5, got 7"),
        (lambda r: ESC50(r, val_fraction=1.0), r"val_fraction must be in \[0, 1\), got 1.0"),
        (lambda r: ESC50(r, normalize="loud"), "normalize must be one of none, peak, rms, got 'loud'"),
        (lambda r: ESC50(r, crop_seconds=6.0), "at most seconds=5.0, got 6.0"),
        (lambda r: ESC50(r, sample_rate=0), "sample_rate must be at least 1, got 0"),
        (lambda r: ESC50(r, seconds=0), "must be at least 1, got 0"),
        (lambda r: AudioCSV(r, test_fraction=0), r"test_fraction must be in \(0, 1\)"),
        (lambda r: ESC50(r).setup(), "meta/esc50.csv and audio/ were expected in .*ESC-50"),
        (lambda r: UrbanSound8K(r).setup(), "UrbanSound8K's folder with metadata.*was expected"),
        (lambda r: SpokenDigits(r).setup(), "DIGIT_SPEAKER_TAKE.wav were expected, found none in"),
        (lambda r: AudioCSV(r).setup(), "metadata.csv: not a readable file, .*No such file"),
    ],
)
def test_bad_arguments_and_missing_folders(tmp_path, make, message):
    with pytest.raises(DataError, match=message) as caught:
        make(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.data
def test_real_esc10_and_spoken_digits(real_data):
    data = ESC10(real_data, fold=5)
    assert data.sizes["train"] + data.sizes["val"] == 320
    assert data.sizes["test"] == 80
    assert data.num_classes == 10
    assert "chainsaw" in data.class_names
    digits = SpokenDigits(real_data)
    assert digits.sizes["test"] == 300
    assert digits.sizes["train"] + digits.sizes["val"] == 2700
