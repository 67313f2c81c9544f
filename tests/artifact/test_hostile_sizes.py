"""What a hostile file may cost is decided from its size, before the work is done."""

import hashlib
import json
import lzma
import resource
import shutil
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from saved_models import make
from test_damage import sign

import autosample
from autosample.artifact.files import read_folder
from autosample.errors import ArtifactError


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    autosample.save(make("digitnet", "wsnet"), folder)
    return folder


@pytest.fixture
def copied(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def refused(folder: Path, match: str, seconds: float = 4.0) -> None:
    """Loading ends in an error of ours, in a short time [s of the processor]."""
    start = time.process_time()
    with pytest.raises(ArtifactError, match=match):
        autosample.load(folder)
    assert time.process_time() - start < seconds


def test_many_empty_tensors(copied):
    """20,000 of them took 21 s: each allowed the model 50 more layers."""
    state = safetensors.torch.load_file(copied / "model.safetensors")
    state |= {f"stages.{i}.x": torch.empty(0) for i in range(6_000)}
    data = config_of(copied)
    data["model"] = {"kind": "timm", "name": "vit_tiny_patch16_224", "arguments": {"num_classes": 7, "depth": 2**12}}
    sign(copied, data, safetensors.torch.save(state))
    refused(copied, "far larger than the tensors")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"depth": 2**16}),
        ("vit_tiny_patch16_224", {"embed_dim": 2**16}),
        ("vit_tiny_patch16_224", {"depth": 2**16, "embed_dim": 8, "num_heads": 1}),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 2**16}),
        ("resnet18", {"num_classes": 2**40}),
        ("mixer_b16_224", {"num_blocks": 2**16}),
        ("resnet18", {"layers": [2**16, 2, 2, 2]}),
    ],
)
@pytest.mark.every(2)
def test_models_that_are_far_larger_than_their_file(copied, name, arguments):
    data = config_of(copied)
    data["model"] = {"kind": "timm", "name": name, "arguments": {"num_classes": 7, **arguments}}
    sign(copied, data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(copied, "far larger than the tensors|cannot be built|at most")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


def test_honest_models_that_need_values_still_load(tmp_path):
    """A vision transformer is built off the meta device: its constructor reads numbers."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2, drop_path_rate=0.1)
    autosample.save(
        model, tmp_path, name="vit_tiny_patch16_224", arguments={"depth": 2, "drop_path_rate": 0.1, "num_classes": 3}
    )
    loaded = autosample.load(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_claim_of_255_mib_is_refused_before_it_is_unpacked(tmp_path):
    """It took 509 MiB before."""
    autosample.save(make("digitnet", "wsnet"), tmp_path, compression="xz")
    packed, data = lzma.compress(bytes(255 << 20), preset=0), config_of(tmp_path)
    (tmp_path / "model.safetensors.xz").write_bytes(packed)
    data["tensors"] |= {"sha256": hashlib.sha256(packed).hexdigest(), "bytes": len(packed)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for claimed in (255 << 20, 16 << 20, 1000):
        data["tensors"]["raw_bytes"] = claimed
        sign(tmp_path, data)
        refused(tmp_path, "may have at most|must have")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB: the decoder's own, and 16 MiB


def test_pieces_of_compressed_tensors_are_put_together(tmp_path):
    model = timm.create_model("digitnet", num_classes=7)
    autosample.save(model, tmp_path / "a", compression="xz")
    autosample.save(model, tmp_path / "b")
    assert read_folder(tmp_path / "a")[1] == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert len(read_folder(tmp_path / "a")[1]) > 1 << 20  # more than a piece


def test_a_configuration_that_load_refuses_is_not_saved(tmp_path):
    model = make("digitnet", "wsnet")
    with pytest.raises(ArtifactError, match=r"config.json must have at most 4 MiB.*shorten facts="):
        autosample.save(model, tmp_path, facts={"notes": "x" * (5 << 20)})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "config.json").write_text(" " * (5 << 20))
    refused(tmp_path, "config.json is larger than 4 MiB")


def with_types(folder: Path, change) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state = {name: tensor.to(change(name) or tensor.dtype) for name, tensor in state.items()}
    sign(folder, config_of(folder), safetensors.torch.save(state))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_mixed_precisions_are_refused(copied, kind):
    with_types(copied, lambda name: kind if name == "head.fc.weight" else None)
    refused(copied, f"must have one precision, got .*{str(kind)[6:]}")


def test_norms_that_do_not_fit_the_model_are_refused(copied):
    with_types(copied, lambda name: torch.bfloat16 if name == "stages.0.norm.weight" else None)
    refused(copied, 'the norm "stages.0.norm" must have the precision torch.float32')


def test_half_precision_with_norms_in_float32_stays_allowed(tmp_path):
    model = make("digitnet", "wsnet").bfloat16()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.float()
    autosample.save(model, tmp_path)
    x = torch.randn(1, 1, 8, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(autosample.load(tmp_path)(x), model(x))


def test_names_of_any_length_give_short_messages(copied):
    state = safetensors.torch.load_file(copied / "model.safetensors")
    long = "x" * 250_000
    for extra in ({long: torch.zeros(1)}, {f"stages.0.conv.{long}": torch.zeros(1)}):
        sign(copied, config_of(copied), safetensors.torch.save(state | extra))
        with pytest.raises(ArtifactError) as caught:
            autosample.load(copied)
        assert len(str(caught.value)) <= 300
    for path in (("left_dense", long), ("shared", long), ("layers", long), ("model", long)):
        data = config_of(copied)
        data[path[0]][path[1]] = "y"
        sign(copied, data)
        with pytest.raises(ArtifactError) as caught:
            autosample.load(copied)
        assert len(str(caught.value)) <= 300
