"""Each mistake ends with one line that names what to change, and code 2; nothing is written."""

import re

import pytest
import torch
import torch.distributed.checkpoint

# options after those of a run that works: what the line must hold
FIT = {
    "--model.spec=wsnt": 'no preset is called "wsnt": did you mean "wsnet"',
    "--model.summary=wsnet": 'option "model.summary" is now called "model.spec"',
    "--model.summary_args.rate=0.1": '"model.summary_args.rate" is now called "model.spec_args.rate"',
    "--model.spec_args.rate=0.1": '"rate" is an option of the rule, not a field of the spec: write options=',
    "--model.ratio=0": "ratio must be .* got 0",
    "--model.ratio=-3": "ratio must be .* got -3",
    "--model.ratio=abc": "model.ratio must be a number or null, got abc",
    "--model.include=[nothing]": "nothing",
    "--trainer.precision=int8": "trainer.precision must be one of transformer-engine, .*bf16-true.*, got int8: ",
    "--trainer.precision=bf16-tru": 'got bf16-tru: did you mean "bf16-true"',
    "--model.model=resnet81": 'no model is called "resnet81": did you mean "resnet18"',
    "--model.model_args={depth: 3}": 'model "digitnet" does not take depth',
    "--model.num_classes=7": "set model.num_classes=10",
    "--model.in_chans=3": "set model.in_chans=1",
    "--model.optimizer=adamww": 'no optimizer of timm is called "adamww": did you mean "adamw"',
    "--model.scheduler=cosin": 'no schedule of timm is called "cosin": did you mean "cosine"',
    "--model.lr=fast": "model.lr must be a number, got fast",
    "--model.ratoi=8": 'no option is called "model.ratoi": did you mean "model.ratio"',
    "--modle.ratio=8": 'no option is called "modle.ratio": did you mean "model.ratio"',
    "--trainer.max_epohcs=8": 'no option is called "trainer.max_epohcs": did you mean "trainer.max_epochs"',
    "--trainer.accelerator=cpux": "the trainer does not accept these options: .*cpux.*cpu",
    "--trainer.strategy=fsdp": "the trainer does not accept these options: .*fsdp.* requires a GPU",
    "--data.batch_szie=8": 'Digits has no option "batch_szie": did you mean "batch_size"',
    "--data.batch_size=x": "data.batch_size must be a whole number, got x",
    "--data.batch_size=0": "batch_size must be at least 1",
    "--data.val_fraction=2": r"val_fraction must be in \[0, 1\)",
    "--data=NotThere": 'data must name a class, got "NotThere": known: .*Digits',
    "--data=MNITS": 'data must name a class, got "MNITS": did you mean "MNIST"',
    "--data=torch.nn.Linear": 'data must name a class, got "torch.nn.Linear"',
    "--trainer.logger=WandbLoger": 'trainer.logger must name a class, got "WandbLoger": did you mean "WandbLogger"',
    "stray": 'got the value "stray" alone',
}  # fmt: skip


def check(ended, pattern, folder=None):
    assert ended.code == 2
    assert ended.err.startswith("autosample: error: ")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    assert len(ended.err) < 700
    assert re.search(pattern, ended.err), ended.err
    if folder is not None:
        assert not list(folder.iterdir())


@pytest.mark.parametrize("option", FIT)
@pytest.mark.every(3)
def test_options(fit, tmp_path, option):
    check(fit(option), FIT[option], tmp_path)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("modle: {ratio: 8}", 'no option is called "modle.*: did you mean "model'),
        ("nmae: x", 'no option is called "nmae": did you mean "name"'),
        ("model: {ratoi: 8}", 'no option is called "model.ratoi": did you mean "model.ratio"'),
        ("model: {summary: wsnet}", 'option "model.summary" is now called "model.spec"'),
        ("trainer: {max_epoch: 8}", 'no option is called "trainer.max_epoch": did you mean "trainer.max_epochs"'),
        ("data: {class_path: Digits, init_args: {batch_szie: 8}}", 'Digits has no option "batch_szie": did you mean'),
        ("data: {class_path: Digitz}", 'data must name a class, got "Digitz": did you mean "Digits"'),
        ("model: {ratio: abc}", "model.ratio must be a number or null, got abc"),
        ("model: {a: [", "a config must be valid YAML, got .*bad.yaml"),
        ("- a\n- b", "a config must hold KEY: VALUE pairs"),
        ("", "a config must hold KEY: VALUE pairs"),
    ],
)
@pytest.mark.every(3)
def test_config_files(fit, tmp_path, tmp_path_factory, text, pattern):
    path = tmp_path_factory.mktemp("configs") / "bad.yaml"
    path.write_text(text)
    check(fit("--config", path), pattern, tmp_path)


def test_config_files_that_are_not_there(autosample):
    check(autosample("fit", "--config", "zzzz.yaml"), 'no file or config is called "zzzz.yaml": ')
    check(autosample("fit", "--config=experiment/digit"), 'did you mean "experiment/digits"')
    check(autosample("fit", "-c", "configs/experiment/digits.yaml"), 'did you mean "experiment/digits"')
    check(autosample("fit", "--config"), "--config needs a value")


def test_missing_data(fit, tmp_path):
    gone = tmp_path / "not" / "there"
    for name in ("MNIST", "CIFAR10", "ESC10", "SpokenDigits", "ImageFolder"):
        chans = "--model.in_chans=3" if name in ("CIFAR10", "ImageFolder") else "--model.in_chans=1"
        check(fit(f"--data={name}", f"--data.root={gone}", chans), "not/there", tmp_path)


def test_a_fold_that_esc10_has_not(fit, tmp_path):
    check(fit("--data=ESC10", "--data.fold=7"), r"fold must be one of 1\.\.5, got 7", tmp_path)


@pytest.mark.parametrize("size", [0, 100, 20_000, -1])
def test_damaged_checkpoints(autosample, trained, tmp_path, size):
    whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(whole[:size])
    for verb in ("fit", "test"):
        ended = autosample(verb, "--config", trained / "config.yaml", "--ckpt_path", broken)
        check(ended, "broken.ckpt (cannot be read as a checkpoint|has another checksum)")


def test_checkpoints_of_something_else(autosample, trained, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.ckpt")
    config = ("--config", trained / "config.yaml", "--ckpt_path")
    check(autosample("test", *config, tmp_path / "other.ckpt"), "must be written by `autosample fit`")
    check(autosample("test", *config, tmp_path / "none.ckpt"), "a checkpoint must be a file, got .*none.ckpt")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_checkpoints_in_pieces(autosample, trained, tmp_path):
    torch.distributed.checkpoint.save({"model": {"weight": torch.zeros(3)}}, checkpoint_id=tmp_path / "a", no_dist=True)
    fix = r'a checkpoint must be whole, got the pieces .*: in the program .* state_dict_type="full"'
    config = ("--config", trained / "config.yaml", "--ckpt_path")
    check(autosample("test", *config, tmp_path / "a"), fix)
    check(autosample("fit", *config, tmp_path / "a"), fix)
    check(autosample("quantize", tmp_path / "a", "--out", tmp_path / "b"), fix)
    check(autosample("export", tmp_path / "a", "--format=onnx"), fix)
    check(autosample("card", tmp_path / "a"), fix)


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize("change", ["ratio=4", "spec=random", "model=test_resnet", "include=[stages.3.conv]"])
@pytest.mark.every(3)
def test_checkpoints_of_another_configuration(autosample, trained, tmp_path, verb, change):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    options = (f"--model.{change}", "--ckpt_path", checkpoint, "--trainer.default_root_dir", tmp_path)
    name = change.partition("=")[0]
    ended = autosample(verb, "--config", trained / "config.yaml", *options)
    check(ended, f"model.{name} must match the checkpoint, got ", tmp_path)


def test_checkpoints_whose_tensors_differ(autosample, trained, tmp_path):
    saved = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    saved["hyper_parameters"]["ratio"] = 4.0
    torch.save(saved, tmp_path / "edited.ckpt")
    options = ("--data=Digits", "--data.image_size=16", "--ckpt_path", tmp_path / "edited.ckpt")
    ended = autosample("test", *options, "--trainer.default_root_dir", tmp_path / "out")
    check(ended, "the weights do not fit this net")


def test_evaluation_needs_data_and_a_checkpoint(autosample, trained):
    for verb in ("validate", "test", "predict"):
        check(autosample(verb), f"{verb} needs a data set, got none: pass --config")
        check(autosample(verb, "--config", trained / "config.yaml"), f"{verb} needs a trained model.*--ckpt_path")


@pytest.mark.parametrize(
    ("args", "pattern"),
    [
        (["fti"], 'no verb is called "fti": did you mean "fit"'),
        (["quikstart"], 'did you mean "quickstart"'),
        (["report"], "required: model: see autosample report --help"),
        (["report", "resnet81"], 'no model is called "resnet81": did you mean "resnet18"'),
        (["report", "resnet18", "--spec=wsnt"], 'did you mean "wsnet"'),
        (["report", "resnet18", "--spce=wsnet"], 'no option is called "spce": did you mean "spec"'),
        (["report", "resnet18", "--summary=wsnet"], 'option "summary" is now called "spec"'),
        (["report", "resnet18", "wsnet"], 'options need a name, got the value "wsnet" alone'),
        (["report", "resnet18", "--out"], "out expected one argument"),
        (["card", "x", "--write=maybe"], "write must be true or false, got maybe"),
        (["report", "resnet18", "--ratio=0"], "ratio must be"),
        (["report", "resnet18", "--ratio=-3"], "ratio must be"),
        (["report", "resnet18", "--ratio=abc"], "ratio must be a number or null, got abc"),
        (["report", "resnet18", "--include=[nothing]"], "nothing"),
        (["quickstart", "--epochs=x"], "epochs must be a whole number, got x"),
    ],
)
def test_other_verbs(autosample, args, pattern):
    check(autosample(*args), pattern)


def test_unexpected_errors_stay_tracebacks(autosample, monkeypatch):
    def broken(args):
        raise ZeroDivisionError

    monkeypatch.setattr("autosample.cli.report.main", broken)
    with pytest.raises(ZeroDivisionError):
        autosample("report", "resnet18")
