"""Settings of the first day: each ends in one line, or works."""

import warnings

import pytest
import torch
from PIL import Image
from torch import nn

import autosample
import autosample.export
from autosample.artifact import load_any
from autosample.cli.main import main
from autosample.errors import ArtifactError, AutosampleError, ConfigError, ExportError
from autosample.training import Classifier

SHORT = [
    "fit",
    "--config=experiment/digits",
    "--model.model=digitnet",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.enable_progress_bar=false",
]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mixup": -3}, "mixup must be at least 0, got -3: 0.2 is usual"),
        ({"cutmix": -1}, "cutmix must be at least 0"),
        ({"label_smoothing": 7}, "label_smoothing must be between 0 and 1, got 7: 0.1 is usual"),
        ({"lr": -1e-3}, "lr must be at least 0"),
        ({"lr": float("nan")}, "lr must be at least 0, got nan"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"warmup": 1.5}, "warmup must be between 0 and 1"),
    ],
)
def test_numbers_out_of_range(options, said):
    with pytest.raises(ConfigError, match=said):
        Classifier("digitnet", ratio=4, **options)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: autosample.convert_("resnet18", ratio=8), "convert_ needs a torch module, got 'resnet18'"),
        (lambda: autosample.report("resnet18"), "report needs a torch module, got 'resnet18'"),
        (lambda: autosample.report(nn.Linear(2, 2), (1, 2)), r"report needs an example input, got \(1, 2\)"),
    ],
)
def test_wrong_arguments(call, said):
    with pytest.raises(AutosampleError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


# every precision of Lightning that needs no other package, with the type that weights are kept in
PRECISIONS = {
    "16-true": torch.float16, "16-mixed": torch.float32, "16": torch.float32, "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.float32, "bf16": torch.float32, "32-true": torch.float32, "32": torch.float32,
    "64-true": torch.float64, "64": torch.float64,
}  # fmt: skip


QUICK = ("16-true", "bf16-mixed", "64-true")


@pytest.mark.parametrize(
    "precision", [pytest.param(p, marks=[] if p in QUICK else pytest.mark.slow) for p in PRECISIONS]
)
def test_precisions(precision, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = torch.get_default_dtype()
    tiny = ["--data.batch_size=4", "--trainer.limit_test_batches=1"]
    assert main([*SHORT, *tiny, f"--trainer.precision={precision}"]) == 0
    assert torch.get_default_dtype() == kept
    assert "times smaller than dense" in capsys.readouterr().out
    (path,) = tmp_path.rglob("last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    numbers = {name: t for name, t in state.items() if t.is_floating_point()}
    assert all(t.isfinite().all() for t in numbers.values())
    assert numbers["net.head.fc.weight"].dtype == PRECISIONS[precision]


@pytest.mark.filterwarnings("default:this CPU has no bf16:UserWarning")
@pytest.mark.parametrize(
    ("processor", "precision", "warns"),
    [
        ({"flags": "fma avx avx2"}, "bf16-mixed", True),
        ({"flags": "fma avx avx2"}, "32-true", False),
        ({"flags": "avx512f avx512_bf16"}, "bf16-mixed", False),
        ({"Features": "asimd bf16 sve"}, "bf16-mixed", False),
        ({}, "bf16-mixed", False),
    ],
)
def test_a_precision_that_the_processor_lacks(classifier, digits, trainer, monkeypatch, processor, precision, warns):
    monkeypatch.setattr("autosample.system.machine._cpuinfo", lambda field: processor.get(field, ""))
    runner = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, precision=precision)
    with warnings.catch_warnings(record=True) as said:
        runner.fit(classifier(), datamodule=digits())
    assert any(str(warning.message).startswith("this CPU has no bf16 arithmetic") for warning in said) == warns


def test_a_precision_of_another_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--trainer.precision=transformer-engine"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("autosample: error: the trainer does not accept these options: ")
    assert "transformer_engine" in line


def test_batch_norm_with_a_batch_of_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = ["--model.model=test_resnet", "--model.in_chans=1", "--data.image_size=16", "--data.batch_size=1"]
    assert main(["fit", "--data=Digits", *SHORT[3:], "--model.ratio=8", *net]) == 2
    assert capsys.readouterr().err == (
        "autosample: error: batch norm needs at least 2 values per channel, got 1 in a batch of 1: set data.batch_size "
        "to 2 or more, or data.drop_last to true\n"
    )


def test_one_class(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a classifier needs at least 2 classes, got 1: set num_classes"):
        Classifier("digitnet", num_classes=1, ratio=4)
    for part in ("train", "val"):
        (tmp_path / "data" / part / "cat").mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16)).save(tmp_path / "data" / part / "cat" / f"{number}.png")
    data = ["--data=ImageFolder", "--data.root=data", "--data.image_size=16", "--data.batch_size=2"]
    net = ["--model.model=digitnet", "--model.ratio=4", "--model.in_chans=3"]
    assert main(["fit", *SHORT[3:], *data, *net]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("autosample: error: data must have at least 2 classes, got 1 in")


@pytest.mark.parametrize("place", ["stages.1.conv.summary", "stages.1.norm.running_var", "head.fc.bias"])
def test_a_net_with_nan_is_not_saved_in_silence(tmp_path, place):
    net = Classifier("digitnet", num_classes=10, spec="random", ratio=4)
    with torch.no_grad():
        net.net.state_dict()[place][0] = float("nan")
    with pytest.raises(
        ArtifactError, match=f'a saved model must be finite, got NaN or infinity in "{place}": train it'
    ):
        autosample.save(net.net, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ExportError, match=f'a model to export must be finite, got NaN or infinity in "{place}"'):
        autosample.export.export_pt2(net.net.eval(), tmp_path / "x.pt2", torch.zeros(1, 1, 8, 8))
    saved = {"state_dict": net.state_dict(), "hyper_parameters": dict(net.hparams)}
    torch.save(saved, tmp_path / "x.ckpt")
    with pytest.warns(UserWarning, match=f'the loaded model has NaN or infinity in "{place}": train it again'):
        load_any(tmp_path / "x.ckpt")


def test_without_a_logger(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--trainer.logger=false"]) == 0
    assert "times smaller than dense" in capsys.readouterr().out


def test_a_length_that_is_not_known(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [option for option in SHORT if "max_epochs" not in option]
    assert main([*given, "--trainer.max_epochs=-1", "--trainer.max_time=00:00:01:00"]) == 2
    error = capsys.readouterr().err
    assert "the schedule needs to know how long training takes" in error
    assert error.count("\n") == 1
