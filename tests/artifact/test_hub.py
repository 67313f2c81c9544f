"""Hub conventions, against folders: nothing is fetched."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from saved_models import INPUTS, make

import autosample
from autosample.errors import ArtifactError, ConfigError
from autosample.models import create


def test_what_is_pushed_is_what_is_loaded(tmp_path, monkeypatch):
    pushed = {}

    class Api:
        def __init__(self, token=None):
            pushed["token"] = token

        def create_repo(self, repo_id, private=None, exist_ok=False):
            assert exist_ok
            pushed["private"] = private
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, commit_message, repo_type, revision, create_pr):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"hub:{repo_id}@{revision}: {commit_message}"

    def snapshot(repo_id, allow_patterns, **options):
        assert "model.safetensors*" in allow_patterns
        assert options["revision"] == "v1"
        return str(tmp_path / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    model = make("digitnet", "wsnet")
    done = autosample.push_to_hub(model, "me/net", private=True, branch="v1", commit_message="first", compression="xz")
    assert done == "hub:me/net@v1: first"
    assert pushed["private"] is True
    x = torch.randn(INPUTS["digitnet"])
    assert torch.equal(autosample.from_pretrained("me/net", revision="v1")(x), model(x))
    assert torch.equal(autosample.from_pretrained(tmp_path / "me" / "net")(x), model(x))


@pytest.mark.parametrize("name", ["no name", "me/nothing"])
def test_what_cannot_be_fetched(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match=f"{name} is no folder here and cannot be fetched .*check the name"):
        autosample.from_pretrained(name, cache_dir=tmp_path)


def test_weights_that_cannot_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("timm.models._hub._CACHE_DIR", str(tmp_path), raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"the files of .resnet10t. cannot be fetched .*checkpoint_path="):
        create("resnet10t", num_classes=10, pretrained=True)


def test_the_card_is_one_that_the_hub_reads(tmp_path):
    model = make("digitnet", "autosample")
    facts = {"license": "mit", "data": "dig|its", "metrics": {"accuracy": "97 %"}, "notes": "<script>\n# not a title"}
    autosample.save(model, tmp_path, facts=facts, class_names=[f"c{i}" for i in range(7)])
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "autosample"
    assert card.data.license == "mit"
    assert card.data.datasets == ["dig|its"]
    text = Path(tmp_path / "README.md").read_text()
    assert "<script>" not in text.replace("\\<", "")
    assert [line.split(",")[0] for line in text.splitlines() if line.startswith("# ")] == ["# digitnet"]
    for part in ("97 %", "c6", f"{autosample.report(model).stored_bytes:,} bytes", "stages.1.conv"):
        assert part in text
