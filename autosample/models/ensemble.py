"""Ensembles: the mean of the predictions of several nets, as one model that reports, saves, predicts and exports."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.models import register_model
from torch import Tensor, nn

from autosample.errors import ConfigError
from autosample.models.factory import create

# arguments that fetch or read weights: an ensemble is built from a file, and fetches nothing
_FETCHING = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")


class Ensemble(nn.Module):
    """The mean of the class probabilities of nets with the same classes.

    Its output is the logarithm of the mean, so `softmax` gives the mean probabilities, as for any other net.

    Args:
        members: Nets that take the same input and give class scores of shape `(B, classes)`. They may be compressed.

    Raises:
        ConfigError: There is no member, or their classes differ.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        counts = sorted({getattr(net, "num_classes", 0) for net in members})
        if len(counts) != 1:
            raise ConfigError(f"members must have the same number of classes, got {counts or 'none'}: pass others")
        self.members = nn.ModuleList(members)
        self.num_classes = counts[0]
        self.pretrained_cfg = dict(getattr(members[0], "pretrained_cfg", None) or {})
        notes = [getattr(net, "origin", None) for net in members]
        if all(notes):  # a saved copy is built from it
            own = [{"name": note["name"], **_kept(note["arguments"])} for note in notes if note]
            object.__setattr__(self, "origin", {"name": "ensemble", "arguments": {"members": own}})

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        scores = torch.stack([net(x).log_softmax(-1) for net in self.members])
        return scores.logsumexp(0) - math.log(len(self.members))


def _kept(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in _FETCHING and value is not None}


@register_model
def ensemble(pretrained: bool = False, members: Sequence[Mapping[str, Any]] = (), **kwargs: Any) -> Ensemble:
    """An ensemble of bare nets: each member is the name of a net in the registry and its arguments.

    Raises:
        ConfigError: A member is no such mapping, asks for weights, or is an ensemble itself.
    """
    nets = []
    for member in members:
        arguments = dict(member) if isinstance(member, Mapping) else {}
        name = arguments.pop("name", None)
        if not isinstance(name, str) or ":" in name or name == "ensemble" or set(arguments) & set(_FETCHING):
            raise ConfigError(
                f"a member needs the name of a net in the registry and arguments without weights, got {member!s:.80}: "
                "change it"
            )
        nets.append(create(name, **{"num_classes": kwargs.get("num_classes", 1000), **arguments}))
    return Ensemble(nets)
