"""What all quantizers of learned tensors share: the levels of their values, while these are learned and afterwards."""

import copy
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.coding.exact import Exact
from autosample.coding.levels import nearest_level
from autosample.coding.packing import pack, packed_bytes, unpack
from autosample.coding.straight import straight
from autosample.coding.vectors import from_rows

WAITING, LEARNING, FIXED = 0, 1, 2


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

    @torch.compiler.disable
    def anew(self, values: Float[Tensor, "*shape"]) -> "tuple[Quantizer, Float[Tensor, '*shape']]":
        """A quantizer like this one whose levels are those of other values, and the values at these levels."""
        twin = copy.deepcopy(self)
        twin._enter(WAITING)
        return twin, twin.fix(values)

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
