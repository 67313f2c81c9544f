"""A training that version 0.1.0 began is resumed with the numbers that 0.1.0 would have had; see tests/fixtures."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autosample.artifact import load_any
from autosample.coding.packing import from_bits
from autosample.errors import ArtifactError
from autosample.sampling import LearnedOffsets
from autosample.training import Classifier

FOLDER = Path(__file__).parents[1] / "fixtures" / "checkpoints"
RUNS = json.loads((FOLDER / "resume.json").read_text())["runs"]


def as_before(state, module):
    """A state under the names of version 0.1.0, which kept whole numbers as such, and the start until it froze."""
    plain = {key.removesuffix("_bits"): from_bits(t) if key.endswith("_bits") else t for key, t in state.items()}
    for key in [key for key in plain if key.endswith(".stage")]:
        stage = {0: 0, 1: 1, 3: 2}[int(plain.pop(key))]
        plain[key.replace(".stage", ".state")] = plain.pop(key.replace(".stage", ".width")) + stage
    rules = {name: part for name, part in module.named_modules() if isinstance(part, LearnedOffsets)}
    return plain | {f"{name}.table": rule.table for name, rule in rules.items() if not rule.is_frozen}


@pytest.mark.filterwarnings("ignore:Found keys that are not in the model state dict")  # fake quantization's
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.every(2)
def test_it_is_resumed(autosample, tmp_path, monkeypatch, name):
    monkeypatch.chdir(Path(__file__).parents[2])
    known, words = RUNS[name], RUNS[name]["command"].split()
    words = [word.replace("configs/quantize/codebook4.yaml", "quantize/codebook4") for word in words]
    code, _, err = autosample(*(str(tmp_path) if word == "RUNS" else word for word in words[3:]))
    assert (code, err) == (0, "")
    last = next(tmp_path.rglob("last.ckpt"))
    saved = torch.load(last, weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (known["epoch"], known["global_step"])
    module = Classifier.load_from_checkpoint(last, map_location="cpu", strict=False)
    state = as_before({key: t for key, t in saved["state_dict"].items() if not key.endswith("_tracked")}, module)
    sums = {key: float(t.double().sum()) for key, t in state.items()}
    assert sums == pytest.approx(known["sums"], rel=1e-4, abs=1e-4)
    x = load_file(FOLDER / f"{name}.safetensors")["x"]
    with torch.no_grad():
        torch.testing.assert_close(load_any(last)[0](x), torch.tensor(known["y"]), rtol=1e-4, atol=1e-5)
    hyper = saved["hyper_parameters"]
    assert "summary" not in hyper
    assert hyper["spec"] == name.partition("_")[0].replace("codebook4", "wsnet")


@pytest.mark.parametrize("name", ["wsnet", "autosample_learned", "random", "dfsnet", "nes"])
@pytest.mark.every(2)
def test_the_module_is_loaded(name):
    known = load_file(FOLDER / f"{name}.safetensors")
    module = Classifier.load_from_checkpoint(FOLDER / f"{name}.ckpt", map_location="cpu").eval()
    for layer in module.net.modules():
        getattr(layer, "freeze_", lambda: None)()
    with torch.no_grad():
        torch.testing.assert_close(module(known["x"].clone()), known["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dfsnet", "nes"])
def test_a_training_in_another_unit_does_not_go_on(autosample, tmp_path, name):
    """Its optimizer holds gradients and rates of the earlier unit. Offsets alone are converted, as above."""
    options = ("--data=Digits", "--data.image_size=16", "--trainer.max_epochs=2", "--trainer.logger=false")
    code, _, err = autosample(
        "fit", *options, "--trainer.default_root_dir", tmp_path, "--ckpt_path", FOLDER / f"{name}.ckpt"
    )
    lines = err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert "offsets must be learned in the unit they began with, got a checkpoint of an earlier version" in lines[0]


def test_another_configuration_is_found(autosample, tmp_path):
    options = ("--data=Digits", "--data.image_size=16", "--model.spec=wsnet", "--trainer.default_root_dir", tmp_path)
    code, _, err = autosample("fit", *options, "--ckpt_path", FOLDER / "random.ckpt")
    assert code == 2
    assert "model.spec must match the checkpoint, got wsnet for a checkpoint with random" in err


def test_a_file_that_is_no_checkpoint_of_ours(tmp_path):
    torch.save({"hyper_parameters": {"ratio": 8}, "state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(ArtifactError, match="must be written by `autosample fit`"):
        Classifier.load_from_checkpoint(tmp_path / "x.ckpt")
