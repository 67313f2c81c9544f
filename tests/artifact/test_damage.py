"""Whatever has happened to a saved model: a clear error, or the model as it was saved."""

import copy
import hashlib
import json
import random
import resource
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from saved_models import make

import autosample
from autosample.artifact import compact_state
from autosample.artifact.config import SCHEMA, _checksum
from autosample.errors import ArtifactError, AutosampleError

# What a hostile file may hold in place of anything
EVIL = (
    None, -1, 0, 3, 2**31, 2**40, 2**62, 2**400, 1e308, True, "", "x", "../../etc/passwd", "dense", "random", [], {},
    [[]], [2**40], {"a": 1}, "\x00", "cuda:0",
)  # fmt: skip

LAYER = ("layers", "stages.1.conv")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = make("digitnet", "autosample", columns="shuffle", signs="random")
    autosample.quantize_(model, 4, method="codebook", rest="fp16")
    folder = tmp_path_factory.mktemp("original")
    autosample.save(model, folder)
    return folder


@pytest.fixture
def copied(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def loads(folder: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of what is loaded, or `None` after an error of ours, on one line."""
    try:
        return compact_state(autosample.load(folder))
    except AutosampleError as error:
        caught = error
    assert isinstance(caught, ArtifactError)
    assert "\n" not in str(caught)
    assert len(str(caught)) <= 300
    return None


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def sign(folder: Path, data: dict, tensors: bytes | None = None) -> None:
    """Write a configuration and tensors whose checksums are right."""
    if tensors is not None:
        (folder / "model.safetensors").write_bytes(tensors)
        data["tensors"] |= {
            "sha256": hashlib.sha256(tensors).hexdigest(),
            "bytes": len(tensors),
            "raw_bytes": len(tensors),
        }
    data = {key: value for key, value in data.items() if key != "checksum"}
    (folder / "config.json").write_text(json.dumps({**data, "checksum": _checksum(data)}))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_flipped_and_missing_bytes(original, copied, name):
    whole, data = loads(original), (original / name).read_bytes()
    rng = random.Random(0)
    for _ in range(120):
        place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        (copied / name).write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        got = loads(copied)
        assert got is None or (name == "config.json" and same(got, whole)), place
    for place in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 2):
        for text in (data[:place], data + data[:place] + b"\x00"):
            (copied / name).write_bytes(text)
            assert loads(copied) is None


def test_every_value_of_a_configuration_that_was_changed_by_hand(original, copied):
    data = json.loads((original / "config.json").read_text())
    for path in _leaves(data):
        changed = copy.deepcopy(data)
        _put(changed, path, "other")
        (copied / "config.json").write_text(json.dumps(changed))
        assert loads(copied) is None, path


def test_hostile_values_with_right_checksums(original, copied):
    data = json.loads((original / "config.json").read_text())
    rng = random.Random(1)
    paths = [p for p in _leaves(data) if not {"checksum", "facts", "preprocessing"} & set(map(str, p))]
    paths += [
        (*LAYER, "settings", "spec", field) for field in ("windows", "window", "grid", "denser", "rule", "options")
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in paths:
        for value in rng.sample(EVIL, 1):
            changed = copy.deepcopy(data)
            _put(changed, path, value)
            sign(copied, changed)
            loads(copied)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} KiB"


def test_unknown_and_missing_fields(original, copied):
    data = json.loads((original / "config.json").read_text())
    for path in ((), ("model",), ("tensors",), LAYER, (*LAYER, "settings"), (*LAYER, "settings", "spec")):
        changed = copy.deepcopy(data)
        _get(changed, path)["factroy"] = 1
        sign(copied, changed)
        with pytest.raises(ArtifactError, match="factroy"):
            autosample.load(copied)
    for name in data:
        if name in ("format", "checksum"):
            continue
        sign(copied, {k: v for k, v in data.items() if k != name})
        with pytest.raises(ArtifactError, match=f"{name}"):
            autosample.load(copied)


@pytest.mark.parametrize("value", [5, "abc", None, {"a": 1}, [], [1, 2], [[1], 2, 3]])
def test_preprocessing_is_plain_data_of_any_kind(original, copied, value):
    data = json.loads((original / "config.json").read_text())
    data["preprocessing"] |= {"input_size": value}
    sign(copied, data)
    model = autosample.load(copied)
    assert model.preprocessing["input_size"] == value
    assert same(compact_state(model), loads(original))


@pytest.mark.parametrize("name", ["hf-hub:someone/net", "local-dir:/tmp", "../net", "os.system", "resnet18'", ""])
def test_names_that_would_fetch_or_read(original, copied, name):
    data = json.loads((original / "config.json").read_text())
    data["model"]["name"] = name
    sign(copied, data)
    assert loads(copied) is None


@pytest.mark.parametrize(
    "key", ["pretrained", "checkpoint_path", "pretrained_cfg", "cache_dir", "pretrained_cfg_overlay"]
)
def test_arguments_that_would_fetch_or_read(original, copied, key):
    data = json.loads((original / "config.json").read_text())
    data["model"]["arguments"][key] = "/etc/passwd"
    sign(copied, data)
    with pytest.raises(ArtifactError, match="must not fetch"):
        autosample.load(copied)


def test_models_that_are_far_larger_than_their_file(original, copied):
    data = json.loads((original / "config.json").read_text())
    for name, arguments in (
        ("resnet18", {"num_classes": 2**40}),
        ("digitnet", {"num_classes": 7, "width": 1e6}),
        ("vit_tiny_patch16_224", {"num_classes": 7, "depth": 10**9}),
        ("swin_tiny_patch4_window7_224", {"num_classes": 7, "img_size": 2**19}),
    ):
        data["model"] = {"kind": "timm", "name": name, "arguments": arguments}
        sign(copied, data)
        assert loads(copied) is None


def test_tensors_of_other_types_shapes_and_names(original, copied):
    data = json.loads((original / "config.json").read_text())
    state = safetensors.torch.load_file(original / "model.safetensors")
    for name, tensor in [
        item for item in state.items() if item[0].startswith(("stages.1.conv", "stages.1.norm", "head"))
    ]:
        others = [tensor[..., None], tensor.reshape(-1)[:-1], tensor.to(torch.float64), tensor.to(torch.int16)]
        for other in others:
            if other.shape == tensor.shape and (other.dtype == tensor.dtype or tensor.dtype == torch.float16):
                continue
            sign(copied, copy.deepcopy(data), safetensors.torch.save(state | {name: other.contiguous()}))
            assert loads(copied) is None, (name, other.dtype, other.shape)
        renamed = {f"{key}x" if key == name else key: value for key, value in state.items()}
        sign(copied, copy.deepcopy(data), safetensors.torch.save(renamed))
        assert loads(copied) is None
    sign(copied, copy.deepcopy(data), b"\xff" * 64)
    assert loads(copied) is None


def test_offsets_outside_of_the_summary(tmp_path):
    model = make("digitnet", "autosample", include=["stages.1"])
    autosample.save(model, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    state["stages.1.conv.offsets.table"].fill_(255)
    sign(tmp_path, data, safetensors.torch.save(state))
    with pytest.raises(ArtifactError, match="offsets must be below"):
        autosample.load(tmp_path)


def test_compressed_tensors_that_lie_about_their_size(tmp_path):
    import lzma

    autosample.save(make("digitnet", "wsnet"), tmp_path, compression="xz")
    data = json.loads((tmp_path / "config.json").read_text())
    packed = lzma.compress(bytes(64 << 20))
    (tmp_path / "model.safetensors.xz").write_bytes(packed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for claimed in (1000, 2**40):
        data["tensors"] |= {"sha256": hashlib.sha256(packed).hexdigest(), "bytes": len(packed), "raw_bytes": claimed}
        sign(tmp_path, data)
        assert loads(tmp_path) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_newer_formats_are_told_apart_from_damage(original, copied):
    data = json.loads((original / "config.json").read_text())
    sign(copied, {**data, "schema": SCHEMA + 1, "version": "9.0"})
    with pytest.raises(ArtifactError, match=r"'9\.0': upgrade autosample"):
        autosample.load(copied)
    sign(copied, {**data, "format": "other"})
    with pytest.raises(ArtifactError, match='"format": "autosample"'):
        autosample.load(copied)


def test_what_is_no_saved_model(tmp_path):
    for path in (tmp_path, tmp_path / "missing", Path(__file__)):
        with pytest.raises(ArtifactError):
            autosample.load(path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert loads(tmp_path) is None
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    assert loads(tmp_path) is None


def _leaves(data, path=()):
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found = [leaf for key, value in items for leaf in _leaves(value, (*path, key))]
    return found or [path]


def _get(data, path):
    for key in path:
        data = data[key]
    return data


def _put(data, path, value) -> None:
    _get(data, path[:-1])[path[-1]] = value
