"""The torch classes whose weight can be compressed. To add a kind of layer, add a row."""

from jaxtyping import Float
from torch import Tensor, nn

#: torch class → number of spatial axes
KINDS: dict[type[nn.Module], int] = {
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.Linear: 0,
}


def is_kind(layer: nn.Module) -> bool:
    """Whether a layer's weight can be compressed, judged by its class."""
    return isinstance(layer, tuple(KINDS))


def names_of_kinds() -> str:
    """The classes, for messages."""
    *first, last = [kind.__name__ for kind in KINDS]
    return f"{', '.join(first)} and {last}"


def is_plain(kind: type[nn.Module]) -> bool:
    """Whether a class of convolutions or linear layers computes what torch's own does."""
    own = next((known for known in KINDS if issubclass(kind, known)), None)
    if own is None:
        return False
    convolve = getattr(own, "_conv_forward", None)
    return kind.forward is own.forward and getattr(kind, "_conv_forward", None) is convolve


def in_features(layer: nn.Module) -> int:
    """Channels of a layer's input."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels  # pyright: ignore


def places(x: Tensor, axes: int) -> Float[Tensor, "b p c"]:
    """The channels of the input of a layer with so many spatial axes, at every place: what an index learner reads."""
    if axes == 0:
        return x.reshape(x.shape[0] if x.dim() > 1 else 1, -1, x.shape[-1])
    return x.reshape(-1, *x.shape[-1 - axes :]).flatten(2).transpose(1, 2)
