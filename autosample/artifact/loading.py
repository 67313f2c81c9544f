"""Loading models: from a saved folder, or from a checkpoint of a training run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autosample.artifact.assembling import assemble
from autosample.artifact.building import Factory
from autosample.artifact.checkpoint import buildable, checked_recipe, read_checkpoint
from autosample.artifact.config import Config
from autosample.artifact.files import read_folder
from autosample.artifact.origin import find_source
from autosample.artifact.upgrade import upgraded_state
from autosample.coding.quantizers import quantizer_of
from autosample.errors import DAMAGED, ArtifactError, one_line
from autosample.model.convert import harden_
from autosample.model.finite import not_finite
from autosample.model.quantize import fix_quantizers_
from autosample.nn import compressed_layers
from autosample.nn.stored import plain_state
from autosample.system.checking import as_int, as_list, as_map, as_plain, as_text
from autosample.system.warning import warn

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
    return _described(assemble(config, _tensors(raw, config), factory), config), config


def _folder(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_dir():
        raise ArtifactError(
            f"load needs the folder of a saved model, got {path}: check the path (checkpoints: load_any)"
        )
    return path


def _tensors(raw: bytes, config: Config) -> dict[str, Tensor]:
    try:
        state = safetensors.torch.load(raw)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        text = one_line(error)[:200]
        raise ArtifactError(f"model.safetensors is not a file of tensors ({text}): {DAMAGED}") from error
    return plain_state(state) if config.tensors and config.tensors.compression == "huffman" else state


def _from_checkpoint(path: Path) -> tuple[nn.Module, Config]:
    """The net of an `autosample.training.Classifier`, without the training."""
    saved = read_checkpoint(path)
    state = upgraded_state({k[4:]: v for k, v in saved["state_dict"].items() if k.startswith("net.")}, path)
    with buildable():
        recipe = checked_recipe(saved)
        net = recipe.build()
    try:
        _attach(net, state)
        net.load_state_dict(state)
        if compressed_layers(net):
            fix_quantizers_(net)
            harden_(net)
    except Exception as error:  # tensors of any shape and type can make a layer raise anything
        raise ArtifactError(
            f"the weights of this checkpoint do not fit its settings: {one_line(error)[:200]}"
        ) from error
    known = as_map(as_plain(saved.get("autosample") or {}, "autosample"), "autosample")
    names, facts = known.get("class_names"), as_map(known.get("facts") or {}, "autosample.facts")
    epochs = as_int(saved.get("epoch", 0), "epoch", 0) + 1
    config = Config(
        source=find_source(net, None, None, None),
        preprocessing=as_map(known.get("preprocessing") or {}, "autosample.preprocessing"),
        class_names=None if names is None else tuple(as_text(n, "class_names") for n in as_list(names, "class_names")),
        facts={**facts, "epochs": epochs, "spec": recipe.preset},
    )
    return _described(net.eval(), config), config


def _described(model: nn.Module, config: Config) -> nn.Module:
    """The model with `class_names` and `preprocessing`, and the latter where timm looks for it too."""
    if bad := not_finite(model):
        warn(f'the loaded model has NaN or infinity in "{bad}": train it again')
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
