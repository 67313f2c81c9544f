"""The origin of a model: the name and arguments that build the bare model again."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from autosample.artifact.building import Factory
from autosample.artifact.config import FETCHING, Source
from autosample.errors import ArtifactError
from autosample.system.checking import as_plain


def find_source(
    model: nn.Module, name: str | None, arguments: Mapping[str, Any] | None, factory: Factory | None
) -> Source:
    """What builds a model: from the user, from the note of `autosample.models.create`, or from timm's config.

    Raises:
        ArtifactError: The origin is unknown.
    """
    if factory is not None:
        title = name or getattr(factory, "__qualname__", type(factory).__name__)
        return Source(kind="factory", name=title, arguments=as_plain(arguments or {}, "arguments", "change it"))
    noted: Mapping[str, Any] = getattr(model, "origin", None) or {}
    known = name or noted.get("name") or _architecture(model)
    if not known:
        raise ArtifactError(
            f"save can rebuild models of timm and autosample only, got {type(model).__name__}: pass factory=, a "
            "function that returns the dense model, or name= and arguments="
        )
    found: dict[str, Any] = dict(noted.get("arguments") or _guess(model)) if arguments is None else dict(arguments)
    if arguments is None and isinstance(classes := getattr(model, "num_classes", None), int):
        found["num_classes"] = classes  # the head may have been replaced
    kept = {key: value for key, value in found.items() if key not in FETCHING and value is not None}
    kept.setdefault("num_classes", getattr(model, "num_classes", 1000))
    return Source(kind="timm", name=known, arguments=as_plain(kept, "arguments", "change it"))


def _config(model: nn.Module) -> Mapping[str, Any]:
    found = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    return found if isinstance(found, Mapping) else {}


def _architecture(model: nn.Module) -> str | None:
    return _config(model).get("architecture")


def _guess(model: nn.Module) -> dict[str, Any]:
    """Input channels, if the first convolution has an unusual number; everything else is compared before saving."""
    first = _config(model).get("first_conv")
    usual = (_config(model).get("input_size") or (None,))[0]
    try:
        layer = model.get_submodule(first) if isinstance(first, str) else None
    except AttributeError:
        return {}
    channels = getattr(layer, "in_channels", usual)
    return {} if channels == usual else {"in_chans": channels}
