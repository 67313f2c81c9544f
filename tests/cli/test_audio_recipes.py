"""The recipes for sounds, on sets of their layouts that are made here, cut down by flags alone."""

import csv
import re

import numpy as np
import pytest
import soundfile
import torch
import yaml
from sklearn.metrics import average_precision_score

from autosample.artifact import load_any
from autosample.data import AudioCSV
from autosample.data.inputs import read_input
from autosample.training import Classifier

SHORT = (
    "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false",
    "--trainer.precision=32-true", "--data.batch_size=16", "--data.num_workers=0", "--data.seconds=0.5",
    "--data.sample_rate=8000",
)  # fmt: skip
SMALL = ("--model.model=test_efficientnet", "--data.log_mel={n_fft: 256, hop: 125, n_mels: 32}", "--data.time_mask=8")


def tone(path, pitches, seed, rate=8000):
    """Half a second of tones, by their numbers, in noise."""
    rng, at = np.random.default_rng(seed), np.arange(rate // 2) / rate
    wave = 0.05 * rng.standard_normal(len(at))
    for pitch in pitches:
        wave += 0.2 * np.sin(2 * np.pi * (200 + 60 * pitch) * at + rng.uniform(0, 6))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def esc(tmp_path):
    """ESC-50's layout: a clip of each class and fold."""
    rows = []
    for target in range(50):
        for fold in range(1, 6):
            name = f"{fold}-{100 * target + fold}-A-{target}.wav"
            tone(tmp_path / "ESC-50" / "audio" / name, [target], len(rows))
            rows.append({"filename": name, "fold": fold, "target": target, "category": f"c{target}", "esc10": False})
    table(tmp_path / "ESC-50" / "meta" / "esc50.csv", rows)
    return tmp_path / "ESC-50"


@pytest.fixture
def urban(tmp_path):
    """UrbanSound8K's layout: two clips of each class and fold."""
    rows = []
    for label in range(10):
        for fold in range(1, 11):
            for take in range(2):
                name = f"{1000 * label + fold}-{label}-0-{take}.wav"
                tone(tmp_path / "set" / "audio" / f"fold{fold}" / name, [5 * label], len(rows))
                rows.append({"slice_file_name": name, "fold": fold, "classID": label, "class": f"c{label}"})
    table(tmp_path / "set" / "metadata" / "UrbanSound8K.csv", rows)
    return tmp_path / "set"


@pytest.fixture
def tags(tmp_path):
    """A table of 60 clips with up to four labels each; one for training is damaged."""
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        labels = [k for k in range(4) if rng.random() < 0.4] or [i % 4]
        tone(tmp_path / "set" / "clips" / f"{i}.wav", [10 * k for k in labels], i)
        part = "train" if i < 40 else "val" if i < 48 else "test"
        rows.append({"path": f"clips/{i}.wav", "label": ",".join("abcd"[k] for k in labels), "split": part})
    table(tmp_path / "set" / "metadata.csv", rows)
    (tmp_path / "set" / "clips" / "7.wav").write_bytes(b"RIFF")
    return tmp_path / "set"


def metrics(folder, name):
    """The values of a column of `metrics.csv`."""
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def trained(autosample, recipe, root, tmp_path, *options):
    """The folder of a run of a recipe."""
    words = ["fit", "--config", f"experiment/{recipe}", f"--data.root={root}", *SHORT, *options]
    code, out, err = autosample(*words, f"--trainer.default_root_dir={tmp_path / 'runs'}")
    assert code == 0, err
    assert "times smaller than dense" in out
    folder = next((tmp_path / "runs").rglob("config.yaml")).parent
    losses = metrics(folder, "train/loss")
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    average, last = saved["state_dict"], saved["current_model_state"]
    assert any(not torch.equal(average[name], last[name]) for name in average if average[name].is_floating_point())
    Classifier.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder


def kept(autosample, folder, tmp_path):
    """The model of a run, saved with 8 bits and loaded again, and its config."""
    code, _, err = autosample("quantize", folder / "checkpoints" / "last.ckpt", "--bits=8", "--out", tmp_path / "small")
    assert (code, err) == (0, "")
    return load_any(tmp_path / "small")


def told(model, config, file, several=False):
    """What `predict` prints of a file."""
    with torch.no_grad():
        scores = model(read_input(file, config.preprocessing)[None])[0]
    shares = (scores.sigmoid() if several else scores.softmax(0)).tolist()
    best = sorted(range(len(shares)), key=lambda i: -shares[i])[:3]
    return f"{file}: " + ", ".join(f"{config.class_names[i]} {100 * shares[i]:.1f} %" for i in best) + "\n"


@pytest.mark.parametrize(
    ("recipe", "fold"), [("esc50_soundnet8", 3), ("urbansound8k_m5", 7), ("esc50_logmel_efficientnet", 5)]
)
@pytest.mark.every(3)
def test_a_spec_and_a_fold_are_one_more_word_each(autosample, recipe, fold, tmp_path):
    words = ("--config", f"experiment/{recipe}", "--config", "spec/folded", "--data.root", tmp_path)
    code, out, err = autosample("fit", *words, f"--data.fold={fold}", "--print_config")
    assert (code, err) == (0, "")
    printed = yaml.safe_load(out)
    assert printed["model"]["spec"] == "folded"
    assert printed["data"]["init_args"]["fold"] == fold
    assert printed["data"]["init_args"]["root"] == str(tmp_path)
    assert [one["class_path"] for one in printed["trainer"]["callbacks"]] == [
        "pytorch_lightning.callbacks.EMAWeightAveraging"
    ]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_several_labels_from_a_table_to_predictions(autosample, tags, tmp_path):
    # all warnings but the one that counts are errors
    with pytest.warns(UserWarning, match=r"sounds of epoch \d that could not be read: 1; .*7\.wav") as said:
        folder = trained(
            autosample, "audioset_csv", tags, tmp_path, *SMALL, "--model.num_classes=4", "--data.freq_mask=6"
        )
    assert len([one for one in said if "could not be read" in str(one.message)]) == 2  # epochs
    model, config = load_any(folder / "checkpoints" / "last.ckpt")
    data = AudioCSV(str(tags), separator=",", **given(folder))
    x, y = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    with torch.no_grad():
        scores = model(x)
    (found,) = metrics(folder, "test/map")
    assert found == pytest.approx(average_precision_score(y, scores, average="macro"), abs=1e-5)
    assert len(metrics(folder, "val/map")) == 2
    assert config.class_names == tuple("abcd")
    assert config.facts["multilabel"] is True
    assert config.preprocessing["input_size"] == [1, 32, 33]

    model, config = kept(autosample, folder, tmp_path)
    files = [tags / "clips" / f"{i}.wav" for i in (50, 51)]
    code, out, err = autosample("predict", tmp_path / "small", *files)
    assert (code, err) == (0, "")
    assert out == "".join(told(model, config, file, several=True) for file in files)


def given(folder):
    """Arguments of the data in a run's configuration."""
    options = yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]
    names = ("sample_rate", "seconds", "log_mel", "from_files", "num_workers", "batch_size", "on_bad")
    return {name: options[name] for name in names}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_the_waves_of_esc50(autosample, esc, tmp_path):
    folder = trained(autosample, "esc50_soundnet8", esc, tmp_path, "--model.model=wave4", "--data.fold=3")
    (accuracy,) = metrics(folder, "test/acc")
    assert round(50 * accuracy, 4) in range(51)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["init_args"]["fold"] == 3
    predicts(autosample, folder, next((esc / "audio").glob("3-*")), tmp_path, [1, 4000])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_the_waves_of_urban_sounds(autosample, urban, tmp_path):
    folder = trained(autosample, "urbansound8k_m5", urban, tmp_path, "--config=spec/folded")
    (accuracy,) = metrics(folder, "test/acc")
    assert round(20 * accuracy, 4) in range(21)
    predicts(autosample, folder, urban / "audio" / "fold10" / "10-0-0-0.wav", tmp_path, [1, 4000])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_the_spectrograms_of_esc50(autosample, esc, tmp_path):
    """Trained, tested, predicted, saved, exported and reported: nets take spectrograms, files become ones."""
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = trained(autosample, "esc50_logmel_efficientnet", esc, tmp_path, *SMALL, "--model.ratio=2")
    file = next((esc / "audio").glob("1-*"))
    model, config = predicts(autosample, folder, file, tmp_path, [1, 32, 33])
    code, out, err = autosample("export", tmp_path / "small", "--format=onnx", "--out", tmp_path / "small.onnx")
    assert (code, err) == (0, "")
    assert "largest error" in out
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    x = read_input(file, config.preprocessing)[None]
    assert session.get_inputs()[0].shape[1:] == [1, 32, 33]
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), model(x), rtol=1e-3, atol=1e-3)
    code, out, err = autosample("card", tmp_path / "small")
    assert "n_mels" in out
    with (folder / "report.csv").open() as rows:
        assert sum(float(row["macs"] or 0) for row in csv.DictReader(rows)) > 0

    code, _, err = autosample(
        "predict", f"--config={folder / 'config.yaml'}", f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    )
    assert (code, err) == (0, "")
    with next((tmp_path / "runs").rglob("predictions.csv")).open() as rows:
        assert len(list(csv.DictReader(rows))) == 50


def predicts(autosample, folder, file, tmp_path, size):
    """Check what `predict` prints with the saved model of a run; gives the model and its config."""
    model, config = kept(autosample, folder, tmp_path)
    assert config.preprocessing["input_size"] == size
    assert "multilabel" not in config.facts
    code, out, err = autosample("predict", tmp_path / "small", file)
    assert (code, err) == (0, "")
    assert out == told(model, config, file)
    return model, config


@pytest.mark.parametrize(
    ("recipe", "made", "said"),
    [
        (
            "esc50_soundnet8 --model.model=wave4",
            "audio/1-1-A-0.wav",
            "meta/esc50.csv and audio/ were expected in .*ESC-50",
        ),
        ("urbansound8k_m5", "UrbanSound8K.csv", "UrbanSound8K's folder with metadata/UrbanSound8K.csv .* was expected"),
        ("urbansound8k_m5", "metadata/Urbansound8k.csv", "UrbanSound8K.csv: not a readable file, .*No such file"),
        (
            "audioset_csv --model.model=test_efficientnet",
            "table.csv",
            "metadata.csv: not a readable file, .*No such file",
        ),
    ],
)
@pytest.mark.every(4)
def test_a_folder_of_another_layout_is_one_line(autosample, recipe, made, said, tmp_path):
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).write_text("")
    words = [*f"fit --config=experiment/{recipe} --trainer.accelerator=cpu --trainer.precision=32-true".split()]
    words += [f"--data.root={tmp_path}", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    code, out, err = autosample(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(said, err), err
    assert not (tmp_path / "runs").exists()
