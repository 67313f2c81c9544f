"""`config.json` of a saved model: what it may hold, and how it is checked before use."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from autosample.artifact.upgrade import by_value, since_1, since_2
from autosample.coding.quantizers import LONGEST_VECTOR, QUANTIZERS
from autosample.errors import DAMAGED, ArtifactError, hint, one_line
from autosample.system.checking import as_float, as_int, as_list, as_map, as_plain, as_text, take

FORMAT, SCHEMA = "autosample", 3
COMPRESSIONS = ("none", "xz", "huffman")
DTYPES = {str(dtype)[6:]: dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LARGEST_ARGUMENT = 2**16
# Arguments of timm that read files or download weights: a saved model needs neither.
FETCHING = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "checkpoint_path",
    "cache_dir",
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What builds the bare model: a name in timm's registry (which includes ours), or a factory of the user.

    Attributes:
        kind: `timm` or `factory`.
        name: Name of the model; for a factory, only used in messages and never imported.
        arguments: Arguments as plain data.
    """

    kind: Literal["timm", "factory"]
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How the numbers of a parameter are coded: `method`, `bits` and `vector` of its quantizer, and its precision."""

    method: str
    bits: int
    dtype: str
    vector: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `vector` only if codes are shared."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("vector", 1)}


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """A compressed layer: its method, the method's own settings, what is quantised, and the error of its warm start."""

    method: str
    settings: Mapping[str, Any]
    coding: Mapping[str, Coding] = field(default_factory=dict)
    fit_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """The tensors' file: SHA-256 and size on disk, and size without compression [bytes]."""

    sha256: str
    bytes: int
    raw_bytes: int
    compression: str = "none"


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """Everything about a saved model except its tensors.

    Attributes:
        source: What builds the bare model.
        layers: Compressed layers by name.
        shared: Second names of parameters and buffers, with their first names.
        rounded: Tensors stored in half precision, by name, with the precision that they are used in.
        left_dense: Why layers were not converted, by name.
        preprocessing: How inputs were made, plain data: `sample_rate`, `samples`, `mean`, `std`, `input_size`, ….
        class_names: Class names in the order of the outputs, or `None`.
        facts: Plain data for the model card: `data`, `metrics`, `command`, `license`, ….
        dense_bytes, stored_bytes: Size of the dense model and of this one, without file headers.
        tensors: The tensors' file; `None` for a model that was never saved.
        version: Version of the library that saved it.
        old_layers: Compressed layers by name, as described in a file of an earlier format.
    """

    source: Source
    layers: Mapping[str, LayerConfig] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    rounded: Mapping[str, str] = field(default_factory=dict)
    left_dense: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    dense_bytes: int = 0
    stored_bytes: int = 0
    tensors: TensorFile | None = None
    version: str = ""
    old_layers: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Config: {self.source.name}, {len(self.layers)} compressed layers, {self.stored_bytes:,} bytes stored>"

    @property
    def ratio(self) -> float:
        """`dense_bytes / stored_bytes`, as in `autosample.report`."""
        return self.dense_bytes / self.stored_bytes if self.stored_bytes else 1.0

    def to_json(self) -> str:
        """The text of `config.json`."""
        layers = {
            name: {
                "method": layer.method,
                "settings": dict(layer.settings),
                "coding": {key: coding.to_dict() for key, coding in layer.coding.items()},
                "fit_error": layer.fit_error,
            }
            for name, layer in self.layers.items()
        }
        data = {
            "format": FORMAT,
            "schema": SCHEMA,
            "version": self.version,
            "model": {"kind": self.source.kind, "name": self.source.name, "arguments": dict(self.source.arguments)},
            "tensors": None if self.tensors is None else asdict(self.tensors),
            "layers": layers,
            "shared": dict(self.shared),
            "rounded": by_value(self.rounded),
            "left_dense": dict(self.left_dense),
            "preprocessing": dict(self.preprocessing),
            "class_names": None if self.class_names is None else list(self.class_names),
            "facts": dict(self.facts),
            "dense_bytes": self.dense_bytes,
            "stored_bytes": self.stored_bytes,
        }
        return json.dumps({**data, "checksum": _checksum(data)}, indent=1, allow_nan=False) + "\n"


def parse(text: str) -> Config:
    """The inverse of `Config.to_json`.

    Raises:
        ArtifactError: The text is not a configuration of this format or an earlier one.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"config.json is not valid JSON ({one_line(error)[:200]}): {DAMAGED}") from error
    data = as_map(data, "config.json")
    if data.get("format") != FORMAT:
        raise ArtifactError(
            'config.json was not written by autosample (it has no "format": "autosample"): check the folder'
        )
    schema = as_int(data.get("schema"), "schema", 1)
    if schema > SCHEMA:
        raise ArtifactError(
            f"this version reads formats 1 to {SCHEMA}, got {schema}, saved by autosample "
            f"{str(data.get('version'))[:40]!r}: upgrade autosample"
        )
    kept = since_1(data) if schema == 1 else {key: value for key, value in data.items() if key != "checksum"}
    if schema > 1 and data.get("checksum") != _checksum(kept):
        raise ArtifactError("config.json was changed after it was saved (its checksum differs): use another copy")
    kept, old = since_2(kept) if schema < SCHEMA else (kept, {})
    return _parse_current(kept, old)


def _checksum(data: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, independent of order and white space."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _parse_current(data: Mapping[str, Any], old: Mapping[str, Any]) -> Config:
    got = take(
        data,
        "config.json",
        ("format", "schema", "version", "model", "tensors", "layers", "shared", "rounded", "left_dense",
         "preprocessing", "class_names", "facts", "dense_bytes", "stored_bytes"),
    )  # fmt: skip
    names = got["class_names"]
    return Config(
        source=source_of(got["model"]),
        layers={name: _layer(layer, f"layers.{name}") for name, layer in as_map(got["layers"], "layers").items()},
        shared=_texts(got["shared"], "shared"),
        rounded={
            as_text(name, "rounded"): _choice(dtype, "rounded", DTYPES)
            for dtype, names in as_map(got["rounded"], "rounded").items()
            for name in as_list(names, f"rounded.{dtype}")
        },
        left_dense=_texts(got["left_dense"], "left_dense"),
        preprocessing=as_plain(as_map(got["preprocessing"], "preprocessing"), "preprocessing"),
        class_names=None if names is None else tuple(as_text(n, "class_names") for n in as_list(names, "class_names")),
        facts=as_plain(as_map(got["facts"], "facts"), "facts"),
        dense_bytes=as_int(got["dense_bytes"], "dense_bytes", 0),
        stored_bytes=as_int(got["stored_bytes"], "stored_bytes", 0),
        tensors=_tensors(got["tensors"]),
        version=as_text(got["version"], "version"),
        old_layers=old,
    )


def source_of(data: Any) -> Source:
    """What builds a bare model, from data that may come from anyone.

    Raises:
        ArtifactError: It is not in timm's registry, would fetch or read weights, or has unusable arguments.
    """
    got = take(as_map(data, "model"), "model", ("kind", "name", "arguments"))
    kind = _choice(got["kind"], "model.kind", ("timm", "factory"))
    name = as_text(got["name"], "model.name")
    if kind == "timm" and not _NAME.fullmatch(name):
        raise ArtifactError(f"model.name must be the name of a timm model, got {name[:80]!r}: {DAMAGED}")
    arguments = as_plain(as_map(got["arguments"], "model.arguments"), "model.arguments")
    if kind == "timm" and (fetching := sorted(set(arguments) & set(FETCHING))):
        raise ArtifactError(
            f"model.arguments must not fetch or read weights, got {', '.join(fetching)}: remove them from config.json"
        )
    _bound({key: value for key, value in arguments.items() if key != "num_classes"})
    return Source(kind=kind, name=name, arguments=arguments)  # pyright: ignore[reportArgumentType]


def _bound(value: Any) -> None:
    """Refuse numbers too large for any net: a constructor may make a list as long as its argument."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _bound(item)
    if isinstance(value, int | float) and abs(value) > _LARGEST_ARGUMENT:
        raise ArtifactError(
            f"numbers in model.arguments must be at most {_LARGEST_ARGUMENT}, got {value!r:.80}: {DAMAGED}"
        )


def _layer(data: Any, where: str) -> LayerConfig:
    got = take(as_map(data, where), where, ("method", "settings", "coding", "fit_error"))
    coding = {}
    for key, value in as_map(got["coding"], f"{where}.coding").items():
        place = f"{where}.coding.{key}"
        inner = take({"vector": 1, **as_map(value, place)}, place, ("method", "bits", "dtype", "vector"))
        coding[key] = Coding(
            method=_choice(inner["method"], f"{where}.coding.{key}.method", QUANTIZERS),
            bits=as_int(inner["bits"], f"{where}.coding.{key}.bits", 2, 8),
            dtype=_choice(inner["dtype"], f"{where}.coding.{key}.dtype", DTYPES),
            vector=as_int(inner["vector"], f"{where}.coding.{key}.vector", 1, LONGEST_VECTOR),
        )
    error = got["fit_error"]
    return LayerConfig(
        method=as_text(got["method"], f"{where}.method"),
        settings=as_plain(as_map(got["settings"], f"{where}.settings"), f"{where}.settings"),
        coding=coding,
        fit_error=None if error is None else as_float(error, f"{where}.fit_error"),
    )


def _tensors(data: Any) -> TensorFile:
    got = take(as_map(data, "tensors"), "tensors", ("sha256", "bytes", "raw_bytes", "compression"))
    digest = as_text(got["sha256"], "tensors.sha256")
    if not _DIGEST.fullmatch(digest):
        raise ArtifactError(f"tensors.sha256 must be 64 hexadecimal digits, got {digest[:80]!r}: {DAMAGED}")
    return TensorFile(
        sha256=digest,
        bytes=as_int(got["bytes"], "tensors.bytes", 8),
        raw_bytes=as_int(got["raw_bytes"], "tensors.raw_bytes", 8),
        compression=_choice(got["compression"], "tensors.compression", COMPRESSIONS),
    )


def _choice(value: Any, where: str, known: Any) -> str:
    text = as_text(value, where)
    if text not in known:
        raise ArtifactError(f"{where} must be one of {', '.join(known)}, got {text[:80]!r}: {hint(text[:80], known)}")
    return text


def _texts(data: Any, where: str) -> dict[str, str]:
    return {key: as_text(value, f"{where}.{key}") for key, value in as_map(data, where).items()}
