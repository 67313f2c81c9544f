"""What a converted model weighs in a file: the tensors that give it back, positions packed at the bits they need."""

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from autosample.nn import SummaryLayer, outer_modules


def compact_state(model: nn.Module) -> dict[str, Tensor]:
    """The smallest set of tensors that stands for the model, by name; a tensor with several names appears once.

    Summary layers contribute `SummaryLayer.stored()`; every other module its parameters and persistent buffers.
    """
    state: dict[str, Tensor] = {}
    # the tensors themselves are kept as long as their identities: a number of a dead one may be given again
    seen: dict[tuple, Tensor] = {}
    for prefix, module in outer_modules(model):
        tensors = module.stored() if isinstance(module, SummaryLayer) else _own_tensors(module)
        for name, tensor in tensors.items():
            if (key := _identity(tensor)) not in seen:
                seen[key] = tensor
                state[f"{prefix}.{name}" if prefix else name] = tensor.detach()
    return state


def _identity(tensor: Tensor) -> tuple:
    """Equal for tensors that are the same numbers in memory; empty and meta tensors are each their own."""
    place = tensor.data_ptr() if tensor.device.type != "meta" else 0
    return (place or id(tensor), tensor.shape, tensor.stride(), tensor.dtype)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    lasting = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
    tensors = {name: tensor for name, tensor in {**module._parameters, **lasting}.items() if tensor is not None}
    # a lazy layer has nothing to store yet
    return {n: t for n, t in tensors.items() if not isinstance(t, UninitializedParameter | UninitializedBuffer)}
