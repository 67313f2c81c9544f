"""One call for any net, timm's or ours, with errors that say what to change."""

import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from autosample.errors import ConfigError, hint, one_line

__all__ = ["create"]

# the second is Python's message for an argument that the model's entry point sets itself
UNEXPECTED = re.compile(r"(?:unexpected keyword argument|multiple values for (?:keyword )?argument) '(\w+)'")


def create(name: str, *, num_classes: int, in_chans: int | None = None, **kwargs: Any) -> nn.Module:
    """Build a net of timm, or one of `autosample.models`, by its name.

    Args:
        name: a name of `timm.list_models()`, with or without a weights tag ("resnet18.a1_in1k"), or "hf-hub:" /
            "local-dir:" and a location.
        num_classes: classes; 0 for a net that gives pooled features.
        in_chans: input channels; None for the model's own default.
        kwargs: passed to `timm.create_model`: `pretrained`, `checkpoint_path`, `features_only`, `drop_rate`, ...

    Raises:
        ConfigError: no such name or tag, arguments the model does not take, a count out of range, or `pretrained=True`
            where no weights exist or they cannot be fetched, or a `checkpoint_path` that is not a file.
    """
    weights = kwargs.get("checkpoint_path")
    if weights and not Path(weights).is_file():
        raise ConfigError(f"checkpoint_path must be a file of weights, got {weights}: check the path, or leave it out")
    if num_classes < 0 or (in_chans is not None and in_chans < 1):
        raise ConfigError(
            f"a model needs num_classes >= 0 and in_chans >= 1, got {num_classes} and {in_chans}: change these"
        )
    _check_name(name, kwargs)
    kwargs = {"num_classes": num_classes, "in_chans": in_chans, **kwargs}
    try:
        net = timm.create_model(name, **kwargs)
        object.__setattr__(net, "origin", {"name": name, "arguments": kwargs})  # a saved copy is built from it
        return net
    except OSError as error:  # all errors of networks are of this kind
        raise ConfigError(
            f'the files of "{name}" cannot be fetched ({one_line(error)[:120]}): check the network and the name, or '
            "pass checkpoint_path= with weights of your own"
        ) from error
    except TypeError as error:
        unknown = _unknown_kwargs(name, kwargs, error)
        if not unknown:
            raise
        raise ConfigError(f'model "{name}" does not take {", ".join(unknown)}: remove or rename') from error


def _check_name(name: str, kwargs: dict[str, Any]) -> None:
    """Raise `ConfigError` unless timm knows `name`, and has weights if they are asked for."""
    if ":" in name:  # the hub or a folder: only timm can check it
        return
    base = name.split(".", 1)[0]
    if not timm.is_model(base):
        near = hint(base, timm.list_models(), otherwise="see timm.list_models()")
        raise ConfigError(
            f'no model is called "{name}": {near} (one of your own: --import the module that registers it)'
        )
    own_cfg = kwargs.get("pretrained_cfg") or kwargs.get("pretrained_cfg_overlay")
    if own_cfg:
        return
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        near = hint(name, timm.list_models(f"{base}.*", include_tags=True) or [base])
        raise ConfigError(f"{one_line(error)} {near}") from error
    if kwargs.get("pretrained") and not (cfg and cfg.has_weights):
        raise ConfigError(
            f'no pretrained weights exist for "{name}": use pretrained=False, or checkpoint_path for your own'
        )


def _unknown_kwargs(name: str, kwargs: dict[str, Any], error: TypeError) -> list[str]:
    """All keys of `kwargs` that the model rejects. Python names one at a time, so retry without each."""
    kwargs = {**kwargs, "pretrained": False, "checkpoint_path": None}
    unknown: list[str] = []
    failure: Exception = error
    while (match := UNEXPECTED.search(str(failure))) and kwargs.pop(match[1], None) is not None:
        unknown.append(match[1])
        try:
            with torch.device("meta"):  # a retry that succeeds should not fill any weights
                timm.create_model(name, **kwargs)
        except Exception as again:  # with any other error, the names found so far are the answer
            failure = again
        else:
            break
    return unknown
