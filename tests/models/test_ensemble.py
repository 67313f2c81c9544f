import json

import pytest
import torch

import autosample
from autosample.errors import ArtifactError, ConfigError
from autosample.models import Ensemble, create


def nets() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    plain = create("digitnet", num_classes=5, in_chans=1)
    small = create("digitnet", num_classes=5, in_chans=1)
    autosample.convert_(small, "folded", ratio=4)
    return [plain.eval(), autosample.harden_(small).eval()]


def test_its_predictions_are_the_mean_of_the_members():
    members, x = nets(), torch.randn(3, 1, 8, 8)
    mean = sum(net(x).double().softmax(-1) for net in members) / 2
    torch.testing.assert_close(Ensemble(members)(x).softmax(-1).double(), mean)


def test_it_is_saved_and_reported(tmp_path):
    members, x = nets(), torch.randn(3, 1, 8, 8)
    model = Ensemble(members).eval()
    parts = [autosample.report(net) for net in members]
    whole = autosample.report(model)
    assert whole.stored_bytes == sum(part.stored_bytes for part in parts)
    assert whole.dense_bytes == sum(part.dense_bytes for part in parts)
    autosample.save(model, tmp_path / "saved")
    again = autosample.load(tmp_path / "saved")
    assert torch.equal(again(x), model(x))
    assert autosample.report(again).stored_bytes == whole.stored_bytes


@pytest.mark.slow
def test_it_is_exported(tmp_path):
    done = autosample.export_onnx(Ensemble(nets()).eval(), tmp_path / "model.onnx", torch.randn(3, 1, 8, 8))
    assert done.error < 1e-5


@pytest.mark.parametrize(
    "member",
    [
        {},
        "digitnet",
        {"name": "hf-hub:a/b"},
        {"name": "ensemble"},
        {"name": "digitnet", "pretrained": True},
        {"name": "digitnet", "checkpoint_path": "/etc/passwd"},
    ],
)
def test_a_file_cannot_ask_for_more_than_bare_nets(tmp_path, member):
    with pytest.raises(ConfigError, match="a member needs the name of a net in the registry"):
        create("ensemble", num_classes=5, members=[member])


def test_unequal_members():
    with pytest.raises(ConfigError, match=r"same number of classes, got \[3, 5\]"):
        Ensemble([*nets(), create("digitnet", num_classes=3, in_chans=1)])
    with pytest.raises(ConfigError, match="got none"):
        Ensemble([])


def test_a_member_without_a_known_origin(tmp_path):
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
    plain.num_classes = 5
    with pytest.raises(ArtifactError, match="factory="):
        autosample.save(Ensemble([*nets(), plain]), tmp_path)


def test_the_file_names_its_members(tmp_path):
    autosample.save(Ensemble(nets()).eval(), tmp_path)
    source = json.loads((tmp_path / "config.json").read_text())["model"]
    assert source["name"] == "ensemble"
    assert [member["name"] for member in source["arguments"]["members"]] == ["digitnet", "digitnet"]
