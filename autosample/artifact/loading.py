"""Loading models: from a saved folder, or from a checkpoint of a training run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autosample.artifact.assembling import assemble
from autosample.artifact.building import Factory
from autosample.artifact.config import FETCHING, Config, Source
from autosample.artifact.files import read_folder
from autosample.artifact.origin import find_source
from autosample.artifact.upgrade import upgraded_state
from autosample.coding.quantizers import quantizer_of
from autosample.errors import DAMAGED, ArtifactError, AutosampleError, one_line
from autosample.model.convert import harden_
from autosample.model.quantize import fix_quantizers_
from autosample.model.recipe import Recipe
from autosample.nn import compressed_layers

# the settings of inputs that timm knows under the same names
_TIMM = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def load(folder: str | Path, *, factory: Factory | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """Load the model that `autosample.save` wrote to a folder, hardened and in evaluation mode.

    Only tensors and plain data are read: no pickle, no code. Everything is checked before use.

    The model's attributes `class_names` and `preprocessing` hold what was saved, unless the model has its own.
    `timm.data.resolve_model_data_config(model)` gives the same preprocessing.

    Args:
        folder: Folder of the saved model.
        factory: The factory, for models that were saved with one.
        device: Device for the tensors.

    Raises:
        ArtifactError: The folder is not a saved model, is damaged, or has a newer version.
    """
    return load_any(_folder(folder), factory=factory)[0].to(device)


def load_any(path: str | Path, *, factory: Factory | None = None) -> tuple[nn.Module, Config]:
    """Load a model and its config, from a saved folder or from a checkpoint that `autosample fit` wrote.

    A model from a checkpoint is hardened, and quantised if it was trained with fake quantisation.

    Raises:
        ArtifactError: The path is neither, or damaged.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return _from_checkpoint(path)
    config, raw = read_folder(path)
    return _described(assemble(config, _tensors(raw), factory), config), config


def _folder(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_dir():
        raise ArtifactError(
            f"load needs the folder of a saved model, got {path}: check the path (checkpoints: load_any)"
        )
    return path


def _tensors(raw: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(raw)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        text = one_line(error)[:200]
        raise ArtifactError(f"model.safetensors is not a file of tensors ({text}): {DAMAGED}") from error


def _from_checkpoint(path: Path) -> tuple[nn.Module, Config]:
    """The net of an `autosample.training.Classifier`, without the training."""
    saved = _read_checkpoint(path)
    hyper: dict[str, Any] = dict(saved["hyper_parameters"])
    state = upgraded_state({key[4:]: v for key, v in saved["state_dict"].items() if key.startswith("net.")}, path)
    try:
        recipe = Recipe.of(hyper)
        args = {name: value for name, value in (recipe.model_args or {}).items() if name not in FETCHING}
        net = replace(recipe, model_args=args).build()
    except AutosampleError as error:
        raise ArtifactError(f"the model of this checkpoint cannot be built: {one_line(error)}") from error
    _attach(net, state)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ArtifactError(
            f"the weights of this checkpoint do not fit its settings: {one_line(error)[:200]}"
        ) from error
    if compressed_layers(net):
        fix_quantizers_(net)
        harden_(net)
    known = saved.get("autosample") or {}
    source: Source = find_source(net, None, None, None)
    names = known.get("class_names")
    facts = {**known.get("facts", {}), "epochs": saved.get("epoch", 0) + 1, "spec": recipe.preset}
    config = Config(
        source=source,
        preprocessing=known.get("preprocessing") or {},
        class_names=None if names is None else tuple(names),
        facts=facts,
    )
    return _described(net.eval(), config), config


def _described(model: nn.Module, config: Config) -> nn.Module:
    """The model with `class_names` and `preprocessing`, and the latter where timm looks for it too."""
    known = dict(config.preprocessing)
    for name, value in (("class_names", config.class_names), ("preprocessing", known)):
        if not hasattr(model, name):  # a model of the user's may have its own
            model.__dict__[name] = value
    usual = getattr(model, "pretrained_cfg", None)
    size = known.get("input_size", [])  # plain data of any kind: only `save` gives them a meaning
    if isinstance(usual, dict) and isinstance(size, list | tuple) and len(size) == len(usual.get("input_size", ())):
        lists = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        model.pretrained_cfg = {**usual, **{name: lists[name] for name in _TIMM if name in lists}}  # pyright: ignore
    return model


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch can raise anything on a broken archive
        text = one_line(error)[:200]
        raise ArtifactError(
            f"{path} cannot be read as a checkpoint without running code ({text}): use another copy"
        ) from error
    needed = {"state_dict", "hyper_parameters"}
    if not isinstance(saved, dict) or not needed <= saved.keys() or "num_classes" not in saved["hyper_parameters"]:
        raise ArtifactError(f"a checkpoint must be written by `autosample fit`, got {path}: pass another file")
    return saved


def _attach(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give layers the quantizers that are in the state after training with fake quantisation."""
    made: dict[int, Any] = {}
    for name, layer in compressed_layers(net).items():
        for key in layer.coded:
            start = f"{name}.quantizers.{key}." if name else f"quantizers.{key}."
            own = {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}
            if own:
                parameter = getattr(layer, key)
                layer.quantise_with(key, made.setdefault(id(parameter), quantizer_of(own)))
