"""Distillation: a net also learns from a teacher, by its scores (Hinton et al. 2015) or as born-again networks do.

The losses of born-again networks are those of Furlanello et al. 2018, section 3: `p` are the teacher's probabilities.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.artifact.loading import load_any
from autosample.errors import ConfigError, hint
from autosample.model.recipe import Recipe

#: Losses of born-again networks, by the paper's names.
BORN_AGAIN = ("ban", "ban+l", "cwtm", "dkpp")
# what comes before the name of a net of timm with its trained weights
_TIMM = "timm:"


def check_distillation(settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless these arguments of `Classifier` are usable for distillation, or ask for none."""
    how, temperature = settings["distill"], settings["temperature"]
    if isinstance(how, str) and how not in BORN_AGAIN:
        raise ConfigError(f'distill must be a share or one of {", ".join(BORN_AGAIN)}, got "{how}": {_near(how)}')
    if (not isinstance(how, str) and not 0 <= how <= 1) or not temperature > 0:
        raise ConfigError(
            f"distill must be between 0 and 1 and temperature above 0, got {how} and {temperature}: 0.7 and 4 are usual"
        )
    if how and settings.get("multilabel"):
        raise ConfigError("distill needs examples of one class each, got multilabel: leave distill and teacher out")
    args, teacher = settings["model_args"] or {}, settings.get("teacher")
    if teacher and not how:
        raise ConfigError(f"a teacher needs a loss, got {teacher} and no distill: set distill, such as ban or 0.7")
    if settings.get("inherit") and not how:
        raise ConfigError("inherit takes parts of a teacher, got none: set teacher and distill, or leave inherit out")
    if how and not (teacher or args.get("pretrained") or args.get("checkpoint_path")):
        raise ConfigError(
            "distill needs a net with trained weights, got none: name a teacher, or set pretrained or checkpoint_path "
            "in model_args"
        )


def _near(name: str) -> str:
    return hint(name, BORN_AGAIN, otherwise="0.7 is a usual share")


def make_teacher(settings: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The teacher of a `Classifier` with these arguments: with trained weights, frozen, in evaluation mode.

    Without `teacher`, it is the dense net of the same arguments.

    Raises:
        ConfigError: There is no such net or file, or its number of classes is another one.
        ArtifactError: The file is damaged.
    """
    place = settings.get("teacher")
    if not place:
        net = Recipe.of(settings).bare()
    elif place.startswith(_TIMM):
        from autosample.models import create

        sizes = {"num_classes": settings["num_classes"], "in_chans": settings["in_chans"]}
        net = create(place.removeprefix(_TIMM), pretrained=True, **sizes)
    else:
        net, _ = load_any(Path(place))
    classes = getattr(net, "num_classes", settings["num_classes"])
    if classes != settings["num_classes"]:
        raise ConfigError(
            f"teacher and net must have the same classes, got {classes} and {settings['num_classes']}: use another "
            "teacher"
        )
    return net.requires_grad_(False).eval().to(device)


def inherit_(net: nn.Module, teacher: nn.Module, names: Iterable[str]) -> None:
    """Give a net the weights of parts of its teacher, such as its first and last layer, and freeze them.

    Students of another kind do so in Furlanello et al. 2018. Statistics of batch norms go on learning.

    Args:
        net: The net; changed in place.
        teacher: A net with parts of the same names and shapes.
        names: Their names.

    Raises:
        ConfigError: One of the nets has no such part, or they differ.
    """
    for name in names:
        part, model = _part(net, "net", name), _part(teacher, "teacher", name)
        shapes, wanted = ({key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (part, model))
        if shapes != wanted:
            raise ConfigError(
                f'net and teacher must have the same "{name}", got shapes {shapes} and {wanted}: exclude it from '
                "sampling in both, or leave it out of inherit"
            )
        part.load_state_dict(model.state_dict())
        part.requires_grad_(False)


def _part(net: nn.Module, owner: str, name: str) -> nn.Module:
    parts = dict(net.named_modules())
    if not name or name not in parts:
        raise ConfigError(
            f'inherit names parts of net and teacher, got "{name}", which the {owner} lacks: {hint(name, parts)}'
        )
    return parts[name]


def taught_loss(
    how: float | str,
    temperature: float,
    scores: Float[Tensor, "b classes"],
    losses: Float[Tensor, " b"],
    taught: Float[Tensor, "b classes"],
) -> Float[Tensor, ""]:
    """The loss of a batch with a teacher.

    Args:
        how: Share of `distillation_loss` in the sum with the mean loss; or `ban`: only the teacher's probabilities,
            `ban+l`: also the labels, `cwtm`: only the labels, each with a weight by the teacher's confidence, `dkpp`:
            as `ban`, with all probabilities but the largest permuted.
        temperature: For a share.
        scores: Class scores of the net.
        losses: The net's loss with the labels, one per example.
        taught: Class scores of the teacher.
    """
    if not isinstance(how, str):
        return (1 - how) * losses.mean() + how * distillation_loss(scores, taught, temperature)
    p = taught.softmax(-1)
    if how == "cwtm":
        return (confidence_weights(p) * losses).sum()
    if how == "dkpp":
        p = permuted(p)
    labels = losses.mean() if how == "ban+l" else losses.new_zeros(())
    return labels + F.cross_entropy(scores, p.to(scores.dtype))


def distillation_loss(
    scores: Float[Tensor, "b classes"], taught: Float[Tensor, "b classes"], temperature: float
) -> Float[Tensor, ""]:
    """`T²·KL(softmax(taught/T) ‖ softmax(scores/T))`, mean over the batch (Hinton et al. 2015, section 2)."""
    said, wanted = F.log_softmax(scores / temperature, -1), F.log_softmax(taught / temperature, -1)
    return temperature**2 * F.kl_div(said, wanted, reduction="batchmean", log_target=True)


def confidence_weights(p: Float[Tensor, "b classes"]) -> Float[Tensor, " b"]:
    """`max p_s / Σ_u max p_u`: weights of examples by the teacher's confidence, with sum 1."""
    most = p.amax(-1)
    return most / most.sum()


def permuted(p: Float[Tensor, "b classes"]) -> Float[Tensor, "b classes"]:
    """The probabilities with the largest in its place, and all others in a random order, another one for each row."""
    largest = F.one_hot(p.argmax(-1), p.shape[-1]).bool()
    chance = torch.rand_like(p, dtype=torch.float32).masked_fill(largest, -1)
    places = (~largest).to(torch.uint8).argsort(dim=-1, stable=True)  # the largest first, then the others as they lie
    return torch.empty_like(p).scatter(-1, places, p.gather(-1, chance.argsort(-1)))
