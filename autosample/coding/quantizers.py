"""Quantizers of learned tensors: the levels of their values, while these are learned and after they are fixed."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.coding.exact import Exact
from autosample.coding.levels import (
    even_codes,
    even_levels,
    even_range,
    even_ranges,
    even_values,
    kmeans_levels,
    nearest_level,
    soft_kmeans,
)
from autosample.coding.packing import from_bits, pack, packed_bytes, unpack
from autosample.coding.straight import straight
from autosample.coding.ternary import ternary
from autosample.coding.vectors import as_rows, codewords, from_rows, nearest_codewords, soft_vectors

WAITING, LEARNING, FIXED = 0, 1, 2
#: most numbers that share a code
LONGEST_VECTOR = 64


class Quantizer(Exact):
    """Shows a tensor as it will be stored: every value at one of `2**bits` levels, with straight-through gradients.

    It changes nothing until `start` is called. Then the levels follow the values (fake quantisation). `fix` makes the
    levels final; values that change later are shown at the nearest level. All state is in buffers.

    Attributes:
        bits: Bits per stored value, 2 to 8.
        now: 0 before the start, 1 while levels are learned, 2 once they are fixed.
    """

    method: ClassVar[str]
    #: name of the buffer that the levels are stored in
    table: ClassVar[str]

    def __init__(self, bits: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.bits, self.now = bits, WAITING
        self.keep("stage", torch.tensor(WAITING, device=device), 2)
        self.keep("width", torch.tensor(bits, device=device), 4)
        self._clean: tuple | None = None

    @property
    def told(self) -> str:
        """Bits and method, for a report."""
        return f"{self.bits} bits, {self.method}"

    def levels(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "k"]:
        """The present levels for `values`, ascending and exact in their precision, as float32."""
        raise NotImplementedError

    def _decide(self, values: Float[Tensor, "*shape"]) -> None:
        """Set the stored levels from the values."""
        raise NotImplementedError

    def prepare(self, values: Float[Tensor, "*shape"]) -> None:
        """Make room for the levels of these values."""

    def start(self, values: Float[Tensor, "*shape"]) -> None:
        """Start fake quantisation."""
        self.prepare(values)
        if self.now == WAITING:
            if not values.is_meta:
                self._decide(values)
            self._enter(LEARNING)

    @torch.no_grad()
    def fix(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Make the levels final, if they are not yet, and return the values at these levels."""
        self.prepare(values)
        if values.is_meta:
            self._enter(FIXED)
            return values
        if self.now == WAITING:
            self._decide(values)
        elif self.now == LEARNING:
            self._settle(values)
        self._enter(FIXED)
        return self.shown(values)

    def _settle(self, values: Float[Tensor, "*shape"]) -> None:
        """Keep the levels that were shown last."""
        self._decide(values)

    def _enter(self, stage: int) -> None:
        # a bit for each stage that was reached, so averages of models are at the later stage
        self.keep("stage", torch.tensor((1 << stage) - 1, device=self.get_buffer(self.table).device), 2)
        self.now, self._clean = stage, None

    def fresh(self, name: str) -> Tensor:
        return torch.tensor({"stage": WAITING, "width": self.bits}[name])

    def _read_state(self) -> None:
        stage = self.get_buffer("stage_bits")
        if not stage.is_meta:
            self.now, self.bits = int(stage.sum()), int(self.kept("width"))
        self._clean = None

    def train(self, mode: bool = True):
        """Switch modes. An average of models (EMA) that received the buffers of a model notices its stage here."""
        self._read_state()
        return super().train(mode)

    def forward(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.now == WAITING or self.holds(values):
            return values
        return straight(values, self.shown(values))

    def holds(self, values: Tensor) -> bool:
        """Whether the levels are fixed and the values are at them."""
        return self.now == FIXED and self._untouched(values)

    def _untouched(self, values: Tensor) -> bool:
        """Whether the values are at their levels; checked once per version of the tensor."""
        if torch.compiler.is_compiling():
            return not self.training
        if torch._C._are_functorch_transforms_active() or values.is_inference() or values.is_meta:
            return values.is_meta
        state = (values.data_ptr(), values._version, values.dtype, values.device)
        if self._clean != state:
            self._clean = state if torch.equal(self.shown(values), values) else None
        return self._clean is not None

    @torch.no_grad()
    def shown(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The values at their nearest levels."""
        levels = self.levels(values)
        return levels[nearest_level(values, levels)].to(values.dtype)

    def codes(self, values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The number of the level nearest to each value."""
        return nearest_level(values, self.levels(values))

    def decoded(self, codes: Int[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
        """The inverse of `codes`, with the levels that are stored."""
        return self.levels(torch.empty(0, dtype=dtype))[codes].to(dtype)

    def code_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of the codes of values."""
        return shape

    def stored_bytes(self, shape: torch.Size) -> int:
        """Bytes of values of a shape, with their levels."""
        return packed_bytes(self.code_shape(shape).numel(), self.bits) + self.get_buffer(self.table).nbytes

    def packed(self, values: Float[Tensor, "*shape"]) -> dict[str, Tensor]:
        """The tensors that a file needs to restore the values."""
        empty = torch.empty(self.code_shape(values.shape), dtype=torch.long, device="meta")
        codes = empty if values.is_meta else self.codes(values)
        return {"codes": pack(codes, self.bits), self.table: self.stored_levels(values)}

    def stored_levels(self, values: Float[Tensor, "*shape"]) -> Tensor:
        """The tensor that a file holds for the levels."""
        return self.get_buffer(self.table)

    @torch.no_grad()
    def unpacked(self, codes: Tensor, table: Tensor, empty: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The inverse of `packed`: values in the shape and precision of `empty`. The quantizer keeps these levels."""
        self.get_buffer(self.table).copy_(table)
        self._enter(FIXED)
        shape = self.code_shape(empty.shape)
        values = self.decoded(unpack(codes, self.bits, shape.numel()).view(shape), empty.dtype)
        return from_rows(values, empty.shape)

    def _apply(self, fn, recurse: bool = True):
        """Levels stay float32 in half-precision models, so values still match their levels."""
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, before in kept.items():
            now = self._buffers[name]
            if before is not None and now is not None and now.dtype != before.dtype:
                self._buffers[name] = before.to(now.device)
        self._clean = None
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        if (old := state_dict.pop(f"{prefix}state", None)) is not None:  # version 0.1.0 wrote it
            state_dict[f"{prefix}stage"], state_dict[f"{prefix}width"] = (1 << old[0].long()) - 1, old[1]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._read_state()

    def extra_repr(self) -> str:
        return f"{self.bits} bits, {('waiting', 'learning', 'fixed')[self.now]}"


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
