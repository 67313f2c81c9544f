"""What a file of a model holds: the tensors that restore it, each at the bits it needs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from autosample.coding.huffman import decoded, encoded
from autosample.errors import DAMAGED, ArtifactError
from autosample.nn.compressed import Compressed
from autosample.nn.finding import outer_modules

#: End of the name of a tensor in Huffman codes.
CODED = ".huffman"
# Attribute in which a module notes which of its tensors a file may hold in lower precision than they are used in.
_NARROW = "_autosample_stored_as"


def compact_state(model: nn.Module) -> dict[str, Tensor]:
    """The smallest set of tensors that describes the model, by name; a tensor with several names appears once.

    Compressed layers contribute `Compressed.stored()`; every other module its parameters and persistent buffers. What
    `quantize_` rounded to half precision is returned in it, as long as the values stay unchanged.
    """
    state: dict[str, Tensor] = {}
    # keep the tensors as long as their identities: the id of a deleted one can be used again
    seen: dict[tuple, Tensor] = {}
    packed: dict[int, dict[str, Tensor]] = {}
    for prefix, module in outer_modules(model):
        tensors = module.stored(packed) if isinstance(module, Compressed) else own_tensors(module)
        for name, tensor in tensors.items():
            if (key := _identity(tensor)) not in seen:
                seen[key] = tensor
                state[_joined(prefix, name)] = _narrowed(module, name, tensor.detach())
    return state


def coded_state(model: nn.Module) -> dict[str, Tensor]:
    """`compact_state`, with packed numbers in Huffman codes where that is smaller; their names end in `CODED`."""
    state = compact_state(model)
    for prefix, module in outer_modules(model):
        for name, numbers in module.packed_numbers().items() if isinstance(module, Compressed) else ():
            full = _joined(prefix, name)
            if full in state and (coded := encoded(state[full], *numbers)) is not None:
                del state[full]
                state[full + CODED] = coded
    return state


def coded_sizes(model: nn.Module) -> dict[str, int]:
    """Bytes of the tensors in Huffman codes, by their names in `compact_state`."""
    state = coded_state(model)
    return {name.removesuffix(CODED): t.nbytes for name, t in state.items() if name.endswith(CODED)}


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `coded_state`.

    Raises:
        ArtifactError: A tensor is damaged, or there twice.
    """
    plain = {name.removesuffix(CODED): decoded(t) if name.endswith(CODED) else t for name, t in state.items()}
    if len(plain) != len(state):
        raise ArtifactError(f"a tensor is in the file with and without Huffman codes: {DAMAGED}")
    return plain


def shared_names(model: nn.Module) -> dict[str, str]:
    """What modules share: maps every later name of a parameter or buffer to its first name."""
    first: dict[tuple, str] = {}
    keep: list[Tensor] = []
    shared = {}
    for prefix, module in outer_modules(model):
        for name, tensor in own_tensors(module).items():
            keep.append(tensor)
            known = first.setdefault(_identity(tensor), full := _joined(prefix, name))
            if known != full:
                shared[full] = known
    return shared


def full_types(model: nn.Module) -> dict[str, torch.dtype]:
    """The precision in which tensors are used, by name, for those that a file may hold in another one."""
    full = {}
    for prefix, module in outer_modules(model):
        if narrow := module.__dict__.get(_NARROW):
            own = own_tensors(module)
            full |= {_joined(prefix, name): own[name].dtype for name in narrow if name in own}
    return full


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and persistent buffers, without those of its submodules."""
    lasting = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
    tensors = {name: tensor for name, tensor in {**module._parameters, **lasting}.items() if tensor is not None}
    # a lazy layer has nothing to store yet
    return {n: t for n, t in tensors.items() if not isinstance(t, UninitializedParameter | UninitializedBuffer)}


def store_as(module: nn.Module, name: str, dtype: torch.dtype) -> None:
    """Note that a file may hold a tensor of a module in another precision, as long as that gives the same values."""
    module.__dict__.setdefault(_NARROW, {})[name] = dtype


def _narrowed(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    wanted = module.__dict__.get(_NARROW, {}).get(name)
    if wanted is None or wanted == tensor.dtype or wanted.itemsize >= tensor.dtype.itemsize:
        return tensor
    narrow = tensor.to(wanted)
    same = tensor.is_meta or torch.equal(narrow.to(tensor.dtype), tensor)
    return narrow if same else tensor  # it was trained since then


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _identity(tensor: Tensor) -> tuple:
    """Equal for tensors that share memory; each empty or meta tensor has its own identity."""
    place = tensor.data_ptr() if tensor.device.type != "meta" else 0
    return (place or id(tensor), tensor.shape, tensor.stride(), tensor.dtype)
