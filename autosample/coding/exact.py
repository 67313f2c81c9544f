"""Whole numbers in a module that averages, casts and empty memory leave alone: seeds, tables of offsets, flags."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from autosample.coding.packing import from_bits, to_bits

_SUFFIX = "_bits"


class Exact(nn.Module):
    """A module that keeps whole numbers as bits, in boolean buffers called `NAME_bits`.

    A number that means something exactly, such as a seed, must not be averaged. Averages of models (EMA) do so with
    every buffer: 7 becomes 6.9999 and then 6. With bits nothing is lost: an average is set where one of two bits is. So
    a number averaged with itself stays the same, and zero averaged with a number becomes that number.

    `to_empty` keeps the numbers, and makes those of a module on the meta device again (`fresh`).
    """

    def keep(self, name: str, values: Int[Tensor, "*shape"], width: int) -> None:
        """Keep `values` (at least 0, below `2**width`) under a name; `kept` reads them."""
        self.keep_bits(name, to_bits(values, width))

    def keep_bits(self, name: str, bits: Bool[Tensor, "*shape width"]) -> None:
        """Keep numbers that are given as bits, the lowest first."""
        old = self._buffers.get(name + _SUFFIX)
        if old is None or old.is_meta or old.shape != bits.shape or old.device != bits.device:
            self.register_buffer(name + _SUFFIX, bits)
        else:
            old.copy_(bits)  # in place: distributed training and compiled models hold the buffer

    def kept(self, name: str) -> Int[Tensor, "*shape"]:
        """The numbers of that name."""
        return from_bits(self.get_buffer(name + _SUFFIX))

    def fresh(self, name: str) -> Int[Tensor, "*shape"] | None:
        """The numbers of that name in a new module, on the CPU, or `None` if only a file has them."""
        return None

    def _apply(self, fn, recurse: bool = True):
        before = {name: bits for name, bits in self._buffers.items() if bits is not None and name.endswith(_SUFFIX)}
        super()._apply(fn, recurse)
        for name, bits in before.items():
            now = self.get_buffer(name)
            if now.is_meta:
                continue
            if bits.is_meta:
                made = self.fresh(name.removesuffix(_SUFFIX))
                bits = torch.zeros_like(bits, device="cpu") if made is None else to_bits(made, bits.shape[-1])
            if now.data_ptr() != bits.data_ptr():
                now.copy_(bits)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """Load a state; version 0.1.0 kept the numbers themselves."""
        for name, bits in self._buffers.items():
            old = prefix + name.removesuffix(_SUFFIX)
            if bits is not None and name.endswith(_SUFFIX) and prefix + name not in state_dict and old in state_dict:
                state_dict[prefix + name] = to_bits(state_dict.pop(old), bits.shape[-1])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
