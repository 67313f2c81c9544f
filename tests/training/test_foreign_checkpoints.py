"""Checkpoints from anyone: one line for what is wrong with them; nothing else is read, and no server is asked."""

import copy
import socket
from pathlib import Path

import pytest
import pytorch_lightning as pl
import timm
import torch

from autosample.artifact import load_any
from autosample.cli.main import main
from autosample.errors import AutosampleError
from autosample.training import Classifier

LINE = r"^[^\n]{10,300}$"
HYPER = "hyper_parameters"


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Fails what asks a server, or reads weights from another file."""

    def fail(*args, **options):
        pytest.fail(f"must not be called: {args}")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, fail)
    monkeypatch.setattr(socket.socket, "connect", fail)
    for name in ("load_checkpoint", "load_pretrained", "load_custom_pretrained"):
        monkeypatch.setattr(timm.models._builder, name, fail, raising=False)
        monkeypatch.setattr(timm.models._factory, name, fail, raising=False)


def saved(**options) -> dict:
    """A checkpoint as Lightning writes it, without a training."""
    torch.manual_seed(0)
    model = Classifier("digitnet", num_classes=10, ratio=4, spec="random", **options)
    return {"state_dict": model.state_dict(), HYPER: dict(model.hparams), "epoch": 0, "global_step": 0,
            "pytorch-lightning_version": pl.__version__}  # fmt: skip


def write(folder: Path, data: object) -> Path:
    torch.save(data, folder / "x.ckpt")
    return folder / "x.ckpt"


def changed(path: tuple, value: object) -> dict:
    data = copy.deepcopy(saved())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


BAD = {
    "no mapping": lambda: [1, 2],
    "no state": lambda: changed(("state_dict",), None),
    "a list as state": lambda: changed(("state_dict",), [torch.zeros(2)]),
    "numbers in the state": lambda: changed(("state_dict", "net.stages.0.conv.bias"), 3),
    "names that are no text": lambda: changed(("state_dict", 7), torch.zeros(1)),
    "a sparse tensor": lambda: changed(("state_dict", "net.x"), torch.zeros(2, 2).to_sparse()),
    "a tensor of 8 TiB in 4 bytes": lambda: changed(("state_dict", "net.x"), torch.zeros(1).expand(2**41)),
    "another shape": lambda: changed(("state_dict", "net.head.fc.bias"), torch.zeros(7)),
    "no weights": lambda: changed(("state_dict",), {}),
    "no arguments": lambda: changed((HYPER,), None),
    "a list as arguments": lambda: changed((HYPER,), ["num_classes"]),
    "deep arguments": lambda: changed((HYPER, "model_args"), {"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}),
    "a number as model": lambda: changed((HYPER, "model"), 7),
    "no such model": lambda: changed((HYPER, "model"), "../../etc/passwd"),
    "a model on a hub": lambda: changed((HYPER, "model"), "hf-hub:timm/resnet18.a1_in1k"),
    "a model in a folder": lambda: changed((HYPER, "model"), "local-dir:/etc"),
    "text as classes": lambda: changed((HYPER, "num_classes"), "ten"),
    "too many classes": lambda: changed((HYPER, "num_classes"), 10**9),
    "a net far larger than the file": lambda: changed((HYPER, "model"), "vit_giant_patch14_224"),
    "text as arguments of the model": lambda: changed((HYPER, "model_args"), "pretrained"),
    "unknown arguments of the model": lambda: changed((HYPER, "model_args"), {"nothing": 1}),
    "no such spec": lambda: changed((HYPER, "spec"), "nothing"),
    "a list as spec": lambda: changed((HYPER, "spec"), ["random"]),
    "text as ratio": lambda: changed((HYPER, "ratio"), "four"),
    "a ratio that is not finite": lambda: changed((HYPER, "ratio"), float("nan")),
    "text as changes": lambda: changed((HYPER, "spec_args"), "options"),
    "numbers as patterns": lambda: changed((HYPER, "include"), 5),
    "numbers as overrides": lambda: changed((HYPER, "overrides"), [5]),
    "text as bits": lambda: changed((HYPER, "planned_bits"), "many"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_ends_in_one_line(tmp_path, capsys, kind):
    path = write(tmp_path, BAD[kind]())
    with pytest.raises(AutosampleError, match=LINE):
        load_any(path)
    assert main(["export", str(path), "--format=artifact", f"--out={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("autosample: error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_does_not_become_a_classifier(tmp_path, kind):
    path = write(tmp_path, BAD[kind]())
    with pytest.raises(AutosampleError, match=LINE):
        Classifier.load_from_checkpoint(path)


FETCHING = {
    "pretrained": True,
    "checkpoint_path": "/etc/passwd",
    "pretrained_cfg": {"url": "http://x"},
    "drop_rate": 0.1,
}


def test_weights_come_from_the_checkpoint_alone(tmp_path):
    data = saved()
    data[HYPER] |= {"model_args": FETCHING, "warm_start": True, "distill": 0.5}
    path = write(tmp_path, data)
    x = torch.randn(2, 1, 8, 8)
    right = Classifier("digitnet", num_classes=10, ratio=4, spec="random")
    right.load_state_dict(data["state_dict"])
    expected = right.eval()(x)
    assert torch.equal(load_any(path)[0](x), expected)
    loaded = Classifier.load_from_checkpoint(path).eval()
    assert torch.equal(loaded(x), expected)
    # a training that goes on knows its teacher
    assert loaded.hparams["model_args"] == FETCHING
    assert loaded.hparams["distill"] == 0.5


QUICK = (
    "--data=Digits", "--data.batch_size=16", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
    "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--test_after_fit=false",
)  # fmt: skip


def test_the_verbs_fetch_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = ["--model.model=digitnet", "--model.spec=random", "--model.ratio=4"]
    assert main(["fit", *QUICK, *net]) == 0
    (path,) = tmp_path.rglob("last.ckpt")
    data = torch.load(path, weights_only=True)
    data[HYPER] |= {"model_args": {"pretrained": True, "checkpoint_path": "/etc/passwd"}, "warm_start": True}
    torch.save(data, path)
    assert main(["test", *QUICK[:-1], f"--ckpt_path={path}"]) == 0
    more = [*QUICK[:2], "--trainer.max_epochs=2", *QUICK[3:]]
    assert main(["fit", *more, f"--ckpt_path={path}"]) == 0
    capsys.readouterr()
    # a teacher needs weights, so the user must name them
    data[HYPER]["distill"] = 0.5
    torch.save(data, path)
    assert main(["fit", *more, f"--ckpt_path={path}"]) == 2
    assert "distill needs a net with trained weights, got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("state_dict",), {}),
        (("state_dict",), None),
        (("optimizer_states",), [{"state": 1, "param_groups": []}]),
        (("optimizer_states",), None),
        (("lr_schedulers",), [None]),
        (("loops",), 5),
        (("callbacks",), [1]),
        (("epoch",), "x"),
    ],
)  # fmt: skip
def test_going_on_from_a_bad_checkpoint_ends_in_one_line(trained, tmp_path, monkeypatch, capsys, path, value):
    monkeypatch.chdir(tmp_path)
    data = torch.load(trained, weights_only=True)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    torch.save(data, tmp_path / "x.ckpt")
    more = [*QUICK[:2], "--trainer.max_epochs=2", *QUICK[3:]]
    code, err = main(["fit", *more, f"--ckpt_path={tmp_path / 'x.ckpt'}"]), capsys.readouterr().err
    assert code == 2 or path == ("epoch",)  # which only is for people to read
    if code:
        assert err.splitlines()[-1].startswith("autosample: error: ")
        assert len(err.splitlines()[-1]) < 320


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    net = ["--model.model=digitnet", "--model.spec=random", "--model.ratio=4"]
    assert main(["fit", *QUICK, *net, f"--trainer.default_root_dir={folder}"]) == 0
    (path,) = folder.rglob("last.ckpt")
    return path
