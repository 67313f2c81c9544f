"""The quantizers: where the levels of their values lie."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.coding.levels import (
    even_codes,
    even_levels,
    even_range,
    even_ranges,
    even_values,
    kmeans_levels,
    soft_kmeans,
)
from autosample.coding.packing import from_bits
from autosample.coding.quantizer import FIXED, LEARNING, Quantizer
from autosample.coding.ternary import ternary
from autosample.coding.vectors import as_rows, codewords, from_rows, nearest_codewords, soft_vectors

#: most numbers that share a code
LONGEST_VECTOR = 64


class LinearQuantizer(Quantizer):
    """Evenly spaced levels between minimum and maximum (WSNet-Q, FSNet-WQ).

    Attributes:
        range: Lowest level and distance of levels, shape `(2,)`, float32.
    """

    method, table = "linear", "range"
    range: Tensor

    def __init__(self, bits: int, device: torch.device | None = None) -> None:
        super().__init__(bits, device)
        self.register_buffer("range", torch.zeros(2, device=device))

    def _decide(self, values: Float[Tensor, "*shape"]) -> None:
        self.range.copy_(even_range(values, self.bits))

    def levels(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "k"]:
        return even_levels(self.stored_levels(values), self.bits).to(values.dtype).float()

    def stored_levels(self, values: Float[Tensor, "*shape"]) -> Tensor:
        return even_range(values, self.bits) if self.now == LEARNING and not values.is_meta else self.range


class CodebookQuantizer(Quantizer):
    """Levels found by k-means; in training DKM's differentiable mixtures (Cho et al. 2022) show the values.

    Attributes:
        codebook: The levels, ascending, `(2**bits,)`, or the codewords of vectors, `(2**bits, vector)`; float32.
        vector: How many consecutive numbers share a code.
        temperature: DKM's `τ`, as a share of the mean distance between levels.
    """

    method, table = "codebook", "codebook"
    codebook: Tensor

    def __init__(
        self, bits: int, device: torch.device | None = None, temperature: float = 0.1, vector: int = 1
    ) -> None:
        super().__init__(bits, device)
        self.temperature, self.vector = temperature, vector
        shape = (2**bits, vector) if vector > 1 else (2**bits,)
        self.register_buffer("codebook", torch.zeros(shape, device=device))

    def _decide(self, values: Float[Tensor, "*shape"]) -> None:
        rows = as_rows(values.detach().float(), self.vector)
        levels = codewords(rows, 2**self.bits) if self.vector > 1 else kmeans_levels(values, self.bits)
        self.codebook.copy_(levels.to(values.dtype))

    def _settle(self, values: Float[Tensor, "*shape"]) -> None:
        self.codebook.copy_(self.levels(values))

    def levels(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "k"]:
        return self.codebook.to(values.dtype).float()

    def forward(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not (self.now == LEARNING and self.training and torch.is_grad_enabled()):
            return super().forward(values)
        soft = soft_kmeans if self.vector == 1 else soft_vectors
        shown, levels = soft(values, self.codebook.clone(), self.temperature)
        with torch.no_grad():
            self.codebook.copy_(levels)
        return shown

    def code_shape(self, shape: torch.Size) -> torch.Size:
        return shape if self.vector == 1 else torch.Size([-(-shape.numel() // self.vector)])

    def codes(self, values: Float[Tensor, "*shape"]) -> Int[Tensor, "*codes"]:
        if self.vector == 1:
            return super().codes(values)
        return nearest_codewords(as_rows(values, self.vector), self.levels(values))[:, 0]

    @torch.no_grad()
    def shown(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.vector == 1:
            return super().shown(values)
        return from_rows(self.levels(values)[self.codes(values)], values.shape).to(values.dtype)

    @property
    def told(self) -> str:
        return super().told + (f", vectors of {self.vector}" if self.vector > 1 else "")


class FilterQuantizer(Quantizer):
    """Evenly spaced levels between minimum and maximum of each filter: each index of the first axis has its own.

    Attributes:
        ranges: Lowest level and distance of levels, shape `(N, 2)`, float32.
    """

    method, table = "per-filter", "ranges"
    ranges: Tensor

    def __init__(self, bits: int, device: torch.device | None = None) -> None:
        super().__init__(bits, device)
        self.register_buffer("ranges", torch.zeros(0, 2, device=device))

    def prepare(self, values: Float[Tensor, "n *rest"]) -> None:
        if len(self.ranges) != len(values):
            self.ranges = torch.zeros(len(values), 2, device=self.ranges.device)

    def _decide(self, values: Float[Tensor, "n *rest"]) -> None:
        self.ranges.copy_(even_ranges(values, self.bits))

    def stored_levels(self, values: Float[Tensor, "n *rest"]) -> Tensor:
        return even_ranges(values, self.bits) if self.now == LEARNING and not values.is_meta else self.ranges

    def codes(self, values: Float[Tensor, "n *rest"]) -> Int[Tensor, "n *rest"]:
        return even_codes(values, self.stored_levels(values), self.bits)

    def decoded(self, codes: Int[Tensor, "n *rest"], dtype: torch.dtype) -> Float[Tensor, "n *rest"]:
        return even_values(codes, self.ranges).to(dtype)

    @torch.no_grad()
    def shown(self, values: Float[Tensor, "n *rest"]) -> Float[Tensor, "n *rest"]:
        spans = self.stored_levels(values)
        return even_values(even_codes(values, spans, self.bits), spans).to(values.dtype)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        if (given := state_dict.get(f"{prefix}ranges")) is not None:
            self.prepare(given)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class TernaryQuantizer(Quantizer):
    """Levels −α, 0 and α (ternary weight networks, Li and Liu 2016): `Δ = 0.7·mean|w|` decides, `α` is a mean.

    Attributes:
        thirds: Lowest level and distance of levels, `(−α, α)`, float32.
    """

    method, table = "ternary", "thirds"
    thirds: Tensor

    def __init__(self, bits: int = 2, device: torch.device | None = None) -> None:
        super().__init__(bits, device)
        self.register_buffer("thirds", torch.zeros(2, device=device))

    def _decide(self, values: Float[Tensor, "*shape"]) -> None:
        self.thirds.copy_(self._span(values))

    def _span(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "2"]:
        scale = ternary(values, "rescaled")[1].float()
        return torch.stack([-scale, scale])

    def stored_levels(self, values: Float[Tensor, "*shape"]) -> Tensor:
        return self._span(values) if self.now == LEARNING and not values.is_meta else self.thirds

    def levels(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "3"]:
        return even_levels(self.stored_levels(values), 2)[:3].to(values.dtype).float()

    @torch.no_grad()
    def shown(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.levels(values)[self.codes(values)].to(values.dtype)

    def codes(self, values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        if self.now == FIXED:
            return super().codes(values)
        return ternary(values, "rescaled")[0].long() + 1

    @torch.no_grad()
    def fix(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        codes = None if self.now == FIXED or values.is_meta else self.codes(values)
        fixed = super().fix(values)  # from now on the nearest level decides
        return fixed if codes is None else self.decoded(codes, values.dtype)


def quantizer_of(state: Mapping[str, Tensor]) -> Quantizer:
    """The quantizer described by the tensors of its `state_dict`."""
    kind = next(kind for kind in QUANTIZERS.values() if kind.table in state)
    bits = state["state"][1] if "state" in state else from_bits(state["width_bits"])
    wide = state[kind.table].ndim == 2 and kind is CodebookQuantizer
    vectors: Any = {"vector": state[kind.table].shape[1]} if wide else {}
    quantizer = kind(int(bits), **vectors)
    quantizer.load_state_dict(dict(state))
    return quantizer


QUANTIZERS: dict[str, type[Quantizer]] = {
    kind.method: kind for kind in (LinearQuantizer, CodebookQuantizer, FilterQuantizer, TernaryQuantizer)
}
