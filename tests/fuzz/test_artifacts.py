"""A damaged or hostile saved model ends in an `ArtifactError` or in the model that was saved, with little cost.

Bytes are damaged as a disk or a network would, where checksums do not fit, and as an attacker would, who signs again.
"""

import copy
import hashlib
import json
import random
import shutil
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from fuzzing import NUMBERS, damaged_bytes, numbered, places_in, put, taken
from torch import Tensor

import autosample
import autosample.models
from autosample.artifact import compact_state
from autosample.artifact.config import _checksum
from autosample.errors import LONGEST, ArtifactError

_SECONDS, _MEMORY = 2.0, 2.0  # of the processor; times that of honest models
_INPUTS = {"digitnet": (1, 1, 8, 8), "mlp784": (1, 784), "m5": (1, 1, 4000)}
VALUES = (
    *NUMBERS, None, True, 0.5, 1e308, -1e-320, "", "x", "../../etc/passwd", "dense", "random", "\x00", "\ud800",
    [], {}, [[]], [2**40], {"a": 1}, "x" * 100_000, [0] * 1000,
)  # fmt: skip
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int64, torch.bool)


@dataclass
class Honest:
    """A saved model, its files, its tensors once loaded and as they are in the file, and an input."""

    folder: Path
    config: bytes
    file: str
    tensors: bytes
    state: dict[str, Tensor]
    inside: dict[str, Tensor]
    x: Tensor


def saved(folder: Path, name: str, preset: str, bits: int = 0, compression: str = "none", **changes) -> Honest:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    if preset != "dense":
        autosample.convert_(model, preset, ratio=8, **changes)
    if bits:
        autosample.quantize_(model, bits, method="codebook" if bits < 5 else "linear", rest="fp16")
    autosample.save(model, folder, compression=compression)
    (file,) = (path.name for path in folder.glob("model.safetensors*"))
    state = compact_state(autosample.load(folder))
    inside = safetensors.torch.load_file(folder / file) if compression == "huffman" else state
    return Honest(
        folder,
        (folder / "config.json").read_bytes(),
        file,
        (folder / file).read_bytes(),
        state,
        inside,
        torch.zeros(_INPUTS[name]),
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> list[Honest]:
    root = tmp_path_factory.mktemp("honest")
    return [
        saved(root / "a", "digitnet", "autosample", 4, columns="shuffle", signs="random"),
        saved(root / "b", "digitnet", "wsnet", compression="xz"),
        saved(root / "c", "mlp784", "hashednet", 8),
        saved(root / "d", "m5", "random"),
        saved(root / "e", "digitnet", "kmeans", 3, "xz"),
        saved(root / "f", "digitnet", "dense"),
        saved(root / "g", "digitnet", "folded", 4, windows=4, options={"blocks": 3}),
        saved(root / "h", "m5", "folded", options={"overlap": 2}),
        saved(root / "i", "digitnet", "kmeans", 4, "huffman", share="root"),
        saved(root / "j", "mlp784", "hashednet", 8, "huffman"),
    ]


def signed(folder: Path, data: dict, file: str, tensors: bytes) -> None:
    """Write a configuration and a file of tensors whose checksums are right."""
    (folder / file).write_bytes(tensors)
    if isinstance(data.get("tensors"), dict):
        data["tensors"] |= {"sha256": hashlib.sha256(tensors).hexdigest(), "bytes": len(tensors)}
        if data["tensors"].get("compression") in ("none", "huffman"):
            data["tensors"]["raw_bytes"] = len(tensors)
    data = {key: value for key, value in data.items() if key != "checksum"}
    (folder / "config.json").write_text(json.dumps({**data, "checksum": _checksum(data)}))


def flip(h: Honest, folder: Path, rng: random.Random) -> bool:
    """Damage either file, without signing."""
    name = rng.choice(("config.json", h.file))
    (folder / name).write_bytes(damaged_bytes((folder / name).read_bytes(), rng))
    return False


def settings(h: Honest, folder: Path, rng: random.Random) -> bool:
    data = json.loads(h.config)
    for _ in range(rng.choice((1, 1, 2))):
        path = rng.choice(places_in(data))
        other = taken(data, rng.choice(places_in(data)))
        old = taken(data, path)
        near = [old + 1, -old, 2 * old] if type(old) in (int, float) else []
        put(data, path, copy.deepcopy(rng.choice((rng.choice(VALUES), other, rng.choice(near or VALUES)))))
    signed(folder, data, h.file, h.tensors)
    return True


def fields(h: Honest, folder: Path, rng: random.Random) -> bool:
    """Take a field away, or add one."""
    data = json.loads(h.config)
    inner = taken(data, rng.choice([path for path in [(), *places_in(data)] if isinstance(taken(data, path), dict)]))
    if inner and rng.random() < 0.6:
        inner.pop(rng.choice(list(inner)))
    else:
        inner[rng.choice(("x", "depth", "width", "pretrained", "rule", "seed", "num_classes"))] = rng.choice(VALUES)
    signed(folder, data, h.file, h.tensors)
    return True


def tensors(h: Honest, folder: Path, rng: random.Random) -> bool:
    """Other types, shapes, names and numbers."""
    state = dict(h.inside)
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice(list(state))
        tensor, kind = state[name], rng.randrange(7)
        if kind == 0:
            state[name] = tensor.to(rng.choice(TYPES))
        elif kind == 1:
            state[name] = tensor.reshape(-1)[: rng.randrange(tensor.numel() + 1)]
        elif kind == 2:
            state[name + rng.choice(("x", "." * 3, "\x00", "é" * 9000))] = state.pop(name)
        elif kind == 3:
            del state[name]
        elif kind == 4:
            state |= {
                f"{name}.{i}": torch.empty(rng.choice(((0,), (1,), (2**40, 0)))) for i in range(rng.choice((1, 500)))
            }
        elif kind == 5:
            state[name] = tensor.new_full(
                tensor.shape, rng.choice((0, 1, 255, -1)) if tensor.dtype != torch.bool else 1
            )
        else:
            state[name] = tensor.unsqueeze(rng.randrange(tensor.dim() + 1))
    raw = safetensors.torch.save({key: value.contiguous() for key, value in state.items()}, {"format": "pt"})
    signed(folder, json.loads(h.config), h.file, _packed(h, raw))
    return True


def header(h: Honest, folder: Path, rng: random.Random) -> bool:
    """The header of the tensors' file, as text."""
    raw = safetensors.torch.save({key: value.contiguous() for key, value in h.inside.items()}, {"format": "pt"})
    size = struct.unpack("<Q", raw[:8])[0]
    text, rest = raw[8 : 8 + size], raw[8 + size :]
    kind = rng.randrange(3)
    if kind == 0:
        text = damaged_bytes(text, rng)
    else:
        data = json.loads(text)
        put(data, rng.choice(places_in(data)), copy.deepcopy(rng.choice(VALUES)))
        text = json.dumps(data).encode()
    length = rng.choice((len(text), len(text), len(text), rng.choice(NUMBERS) % 2**64))
    signed(folder, json.loads(h.config), h.file, _packed(h, struct.pack("<Q", length) + text + rest))
    return True


def _packed(h: Honest, raw: bytes) -> bytes:
    import lzma

    return lzma.compress(raw, preset=0) if h.file.endswith(".xz") else raw


def resign(h: Honest, folder: Path, rng: random.Random) -> bool:
    """Any damage of the tensors' file, signed."""
    signed(folder, json.loads(h.config), h.file, damaged_bytes(h.tensors, rng))
    return True


DAMAGES: tuple[Callable[[Honest, Path, random.Random], bool], ...] = (flip, settings, fields, tensors, header, resign)


def peak(reset: bool = False) -> int:
    """Largest memory of this process since the last reset [KiB]."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the loaded model has NaN or infinity")  # a signed file may say so: it is told
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_no_saved_model_does_harm(honest, tmp_path):
    told, slowest, largest = Counter(), (0.0, -1), (0, -1)
    usual = peak(reset=True)
    folder = tmp_path / "copy"
    for case, rng in numbered():
        h, damage = rng.choice(honest), rng.choice(DAMAGES)
        shutil.copytree(h.folder, folder, dirs_exist_ok=True)
        forged = damage(h, folder, rng)
        peak(reset=True)
        start = time.process_time()
        try:
            model, outcome, said = autosample.load(folder), "loaded", ""
        except ArtifactError as error:
            model, outcome, said = None, "refused", str(error)
        slowest = max(slowest, (time.process_time() - start, case))
        largest = max(largest, (peak(), case))
        assert len(said) <= LONGEST, case
        assert said.isprintable(), case
        if model is not None:
            state = compact_state(model)
            same = state.keys() == h.state.keys() and all(torch.equal(state[k], h.state[k]) for k in state)
            assert same or forged, f"case {case} ({damage.__name__}) loads another model"
            with torch.no_grad():
                model(h.x)  # whatever loads can run
        told[f"{damage.__name__} {outcome}"] += 1
    print(f"{sum(told.values())} saved models: {dict(sorted(told.items()))}")
    print(
        f"slowest {slowest[0]:.2f} s (case {slowest[1]}), largest {largest[0] / usual:.2f} of usual (case {largest[1]})"
    )
    assert slowest[0] < _SECONDS, slowest
    assert largest[0] < _MEMORY * usual, largest
