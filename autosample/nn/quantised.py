"""Parameters that are used and stored at few bits."""

import torch
from torch import Tensor, nn

from autosample.coding.quantizer import WAITING, Quantizer


class QuantisedParameters(nn.Module):
    """A layer's own quantised parameters.

    Attributes:
        quantizers: Quantizers by parameter name, or `None`. Layers that share a parameter share its quantizer.
    """

    quantizers: nn.ModuleDict | None

    def quantizer(self, name: str) -> Quantizer | None:
        """The quantizer of a parameter of this layer."""
        if self.quantizers is None or name not in self.quantizers:
            return None
        return self.quantizers[name]  # pyright: ignore[reportReturnType]

    def in_use(self, name: str) -> Tensor:
        """A parameter as the layer uses it: at the levels of its quantizer, if it has one."""
        quantizer = self.quantizer(name)
        return getattr(self, name) if quantizer is None else quantizer(getattr(self, name))

    def quantise_with(self, name: str, quantizer: Quantizer) -> None:
        """Set the quantizer of a parameter; replaces an earlier one."""
        if self.quantizers is None:
            self.quantizers = nn.ModuleDict()
        self.quantizers[name] = quantizer.train(self.training)

    def start_levels(self, name: str) -> None:
        """Use parameters at the levels of their quantizers from now on."""
        quantizer = self.quantizer(name)
        assert quantizer is not None
        quantizer.start(getattr(self, name))

    @torch.no_grad()
    def fix_levels_(self) -> None:
        """Set quantised parameters to their final levels; drop quantizers that have not started."""
        kept = nn.ModuleDict()
        for name, quantizer in {} if self.quantizers is None else self.quantizers.items():
            assert isinstance(quantizer, Quantizer)
            if quantizer.now != WAITING:
                getattr(self, name).copy_(quantizer.fix(getattr(self, name)))
                kept[name] = quantizer
        self.quantizers = kept if len(kept) else None

    def packed_numbers(self) -> dict[str, tuple[int, int]]:
        """Bits and count of the whole numbers that tensors of `stored` pack, by name; a file can entropy-code these."""
        known = {} if self.quantizers is None else self.quantizers
        return {
            f"{name}.codes": (quantizer.bits, quantizer.code_shape(getattr(self, name).shape).numel())
            for name, quantizer in known.items()
            if isinstance(quantizer, Quantizer) and quantizer.now != WAITING
        }

    def stored_parameters(self, packed: dict[int, dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        """The layer's own parameters as a file holds them: quantised ones as codes and levels."""
        packed = {} if packed is None else packed
        own: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters(recurse=False):
            quantizer = self.quantizer(name)
            if quantizer is None or quantizer.now == WAITING:
                own[name] = parameter
                continue
            if id(parameter) not in packed:
                packed[id(parameter)] = quantizer.packed(parameter.detach())
            own |= {f"{name}.{part}": tensor for part, tensor in packed[id(parameter)].items()}
        return own
