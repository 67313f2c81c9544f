"""Saving a model to a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from autosample.artifact.assembling import OTHERWISE, assemble
from autosample.artifact.building import Factory
from autosample.artifact.card import card_text
from autosample.artifact.config import Coding, Config, LayerConfig, Source
from autosample.artifact.files import compress, describe, write_folder
from autosample.artifact.origin import find_source
from autosample.errors import DAMAGED, ArtifactError
from autosample.model.finite import not_finite
from autosample.model.report import reasons, report
from autosample.nn import Compressed, compressed_layers, outer_modules
from autosample.nn.stored import coded_state, compact_state, full_types, shared_names
from autosample.system.checking import as_plain

# Entries of timm's configs about the inputs of the training.
_INPUT_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct")

_FIX = "pass the arguments= it was made with, or factory="


@torch.no_grad()
def save(
    model: nn.Module,
    folder: str | Path,
    *,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    factory: Factory | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
    compression: str = "none",
    config: Config | None = None,
) -> Config:
    """Save a model as `config.json`, `model.safetensors` and `README.md`; `autosample.load` reads it.

    The files hold packed summaries, integer offsets and all other tensors, each at the bits it needs, as counted by
    `autosample.report`. Offsets that are still learned are stored as integers, as after `harden_`. The model itself is
    not changed. Before anything is written, the model is rebuilt from these data and compared.

    An earlier save is replaced atomically: if the process dies, the folder holds the old model or the new one.

    Args:
        model: Any model that `autosample.models.create` or `timm.create_model` made, converted or not; with `factory`
            any other.
        folder: Folder to write; created if needed.
        name, arguments: Registry name and arguments that rebuild the model, if autosample does not know them. With a
            factory: its name in messages, and its arguments.
        factory: A callable that takes `arguments` and returns the dense model. Loading needs it again.
        preprocessing: How inputs are made, plain data; by default taken from the config of a timm model.
        class_names: Class names in the order of the outputs.
        facts: Plain data for the model card: `data`, `metrics` (a mapping), `command`, `license`, `notes`; and
            `multilabel`, if an example may have several classes.
        config: Config from `load_any`, used for every argument above that is not given.
        compression: `none`; `huffman` for Huffman codes of packed offsets and quantised numbers, where they are
            smaller; or `xz` for a compressed file `model.safetensors.xz`.

    Raises:
        ArtifactError: The model cannot be rebuilt, its numbers are not finite, or the folder cannot be written.
    """
    if hasattr(model, "deployment"):
        raise ArtifactError("a deployed model cannot be saved: save the original")
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        raise ArtifactError(
            "a saved model needs whole tensors, got pieces of a sharded training: save the net of its checkpoint "
            "(Classifier.load_from_checkpoint)"
        )
    if bad := not_finite(model):
        raise ArtifactError(f'a saved model must be finite, got NaN or infinity in "{bad}": train it again')
    if config is not None:
        preprocessing = config.preprocessing if preprocessing is None else preprocessing
        class_names = config.class_names if class_names is None else class_names
        facts = config.facts if facts is None else facts
        if (config.source.kind == "factory") == (factory is not None):
            name = name or config.source.name
            arguments = config.source.arguments if factory is not None and arguments is None else arguments
    source = find_source(model, name, arguments, factory)
    config = _describe(model, source)
    state = {key: _own(tensor) for key, tensor in compact_state(model).items()}
    try:
        twin = assemble(config, state, factory)
    except ArtifactError as error:
        text = str(error).removesuffix(f": {DAMAGED}").removesuffix(f": {OTHERWISE}")
        raise ArtifactError(f"the model cannot be rebuilt: {text}; {_FIX}") from error
    _compare(model, twin)
    given = getattr(model, "pretrained_cfg", None) or {}
    known = {key: given[key] for key in _INPUT_KEYS if isinstance(given, Mapping) and given.get(key)}
    sizes, huffman = report(model), compression == "huffman"
    if huffman:
        state = {key: _own(tensor) for key, tensor in coded_state(model).items()}
    raw = safetensors.torch.save(state, {"format": "pt"})
    data = compress(raw, compression)
    config = Config(
        **{key: getattr(config, key) for key in ("source", "layers", "shared", "rounded", "left_dense", "version")},
        preprocessing=as_plain(known if preprocessing is None else preprocessing, "preprocessing", "change it"),
        class_names=None if class_names is None else tuple(map(str, class_names)),
        facts=as_plain(facts or {}, "facts", "change it"),
        dense_bytes=sizes.dense_bytes,
        stored_bytes=sizes.coded_bytes if huffman else sizes.stored_bytes,
        tensors=describe(data, raw, compression),
    )
    write_folder(Path(folder).expanduser(), config, data, card_text(config, sizes))
    return config


def _describe(model: nn.Module, source: Source) -> Config:
    """The config of a model before its tensors are written."""
    from autosample import __version__

    layers = {name: _layer(layer) for name, layer in compressed_layers(model).items()}
    state, full = compact_state(model), full_types(model)
    rounded = {name: str(full[name])[6:] for name in full if name in state and state[name].dtype != full[name]}
    return Config(
        source=source,
        layers=layers,
        shared=shared_names(model),
        rounded=rounded,
        left_dense=reasons(model),
        version=__version__,
    )


def _layer(layer: Compressed) -> LayerConfig:
    coding = {}
    for name, quantizer in {} if layer.quantizers is None else layer.quantizers.items():
        if quantizer.now:  # pyright: ignore[reportGeneralTypeIssues]
            dtype = str(getattr(layer, name).dtype)[6:]
            told: Any = quantizer
            vector = getattr(told, "vector", 1)
            coding[name] = Coding(method=told.method, bits=told.bits, dtype=dtype, vector=vector)
    settings = as_plain(layer.settings(), "settings")  # as read from a file: lists instead of tuples
    return LayerConfig(method=layer.kept_as, settings=settings, coding=coding, fit_error=layer.fit_error)


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU with its own memory, as needed for a file of tensors."""
    if tensor.is_meta:
        raise ArtifactError("save needs a model with values, got one on the meta device: load its weights first")
    own = tensor.detach().cpu().contiguous()
    return own if own.untyped_storage().nbytes() == own.nbytes else own.clone()


def _compare(model: nn.Module, twin: nn.Module) -> None:
    """Raise unless the model rebuilt from the saved data has the same modules with the same settings.

    Its tensors are those of the file, which was checked already.
    """
    mine, theirs = _settings(model), _settings(twin)
    for name in (*mine, *theirs):
        if mine.get(name) != theirs.get(name):
            raise ArtifactError(
                f'the model cannot be rebuilt: a fresh one has {theirs.get(name, "nothing")} at "{name}" '
                f"instead of {mine.get(name, 'nothing')}; {_FIX}"
            )


def _settings(model: nn.Module) -> dict[str, str]:
    """Class and settings of every module; for compressed layers, those of the dense layer."""
    settings = {}
    for name, module in outer_modules(model):
        kind = module.dense_class if isinstance(module, Compressed) else type(module)
        told = module if isinstance(module, Compressed) or any(module.children()) else None
        text = module.extra_repr() if told is not None else repr(module)
        settings[name] = f"{kind.__module__}.{kind.__qualname__}({text})"
    return settings
