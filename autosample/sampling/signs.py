"""Signs of folds that are learned: `M[b] = s[b] + c[b]·H[b + 1]` in place of `H[b]`, for each block of filters.

`s` are signs, one for each block and channel group: straight-through, those of numbers that begin at `H[b]`. The share
`c` of a second fold, the row after the block's own, begins at 0. A layer remains a product with one matrix over the
channel groups, and a convolution with one group per block.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from autosample.coding.exact import Exact
from autosample.coding.fixed import at_steps, from_steps, to_steps
from autosample.coding.packing import pack_bits, unpack_bits
from autosample.coding.straight import straight
from autosample.sampling.folds import Folds, hadamard


class LearnedSigns(Exact):
    """The signs of a layer's blocks.

    Args:
        folds: The layer's.
        signs: Whether `s` is learned; else it is `H`.
        second: Whether there is a second fold.
        device: Device for the parameters.

    Attributes:
        leaning: `(B, G)`: its signs are `s`, until they are frozen; `None` if they are not learned any more.
        share: `c`, `(B,)`, or `None`.
    """

    leaning: Tensor | None
    share: Tensor | None

    def __init__(self, folds: Folds, signs: bool, second: bool, device: torch.device | None = None) -> None:
        super().__init__()
        self.folds, self.signs, self.second, self.is_frozen = folds, signs, second, not signs
        self.leaning = nn.Parameter(folds.matrix(torch.float32, device)) if signs else None
        self.share = nn.Parameter(torch.zeros(folds.blocks, device=device)) if second else None
        if signs:
            self._thaw()

    def _thaw(self) -> None:
        # zero until they are frozen, as for learned offsets
        assert self.leaning is not None
        self.keep_bits("positive", torch.zeros_like(self.leaning, dtype=torch.bool)[..., None])
        self.keep("frozen", torch.zeros((), device=self.leaning.device), 1)
        self.is_frozen = False

    @torch.no_grad()
    def reset(self) -> None:
        """Start again, with the fold of each block alone."""
        if self.share is not None:
            self.share.zero_()
        if self.leaning is not None:
            self.leaning.copy_(self.folds.matrix(self.leaning.dtype, self.leaning.device))
            self._thaw()
        elif self.signs:
            self.keep_bits("positive", self.folds.matrix(torch.float32, self.device)[..., None] > 0)

    @property
    def device(self) -> torch.device:
        return next(t for t in (self.share, self._buffers.get("positive_bits")) if t is not None).device

    def present(self) -> Bool[Tensor, "b g 1"]:
        """Which signs are positive now."""
        if self.is_frozen or self.leaning is None:
            return self.get_buffer("positive_bits")
        return (self.leaning >= 0)[..., None]

    def freeze(self) -> None:
        """Keep the present signs, and stop learning them. Shares go on learning."""
        if self.leaning is not None and not self.is_frozen:
            self.keep_bits("positive", self.present().clone())
            self.keep("frozen", torch.ones((), device=self.leaning.device), 1)
        self.is_frozen = True

    def notice(self) -> None:
        """See whether the buffers are those of a frozen layer, as in an average of models (EMA)."""
        if self.leaning is not None:
            flag = self.get_buffer("frozen_bits")
            self.is_frozen = not flag.is_meta and bool(flag)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.notice()

    def matrix(self, dtype: torch.dtype) -> Float[Tensor, "b g"]:
        """`M`, differentiable in what is learned."""
        matrix = self.folds.matrix(dtype, self.device)
        if self.signs:
            matrix = self.present()[..., 0].to(dtype) * 2 - 1
            if self.leaning is not None and not self.is_frozen:
                matrix = straight(self.leaning.to(dtype), matrix)
        if self.share is not None:
            rows = torch.arange(1, self.folds.blocks + 1, device=self.device)
            matrix = matrix + at_steps(self.share.to(dtype))[:, None] * hadamard(rows, self.folds.windows, dtype)
        return matrix

    def stored_bits(self) -> int:
        """Bits that a file needs."""
        share = 0 if self.share is None else 16 * self.share.numel()
        return share + (self.folds.blocks * self.folds.windows if self.signs else 0)

    def packed(self) -> dict[str, Tensor]:
        """The tensors that a file needs."""
        signs = {"signs": pack_bits(self.present())} if self.signs else {}
        return signs if self.share is None else {**signs, "share": to_steps(self.share)}

    def fixed(self, stored: Mapping[str, Tensor]) -> "LearnedSigns":
        """The signs that `stored`, the result of `packed`, describes; they learn no more."""
        made = LearnedSigns(self.folds, False, False)
        made.signs, made.second = self.signs, self.second
        if self.signs:
            bits = unpack_bits(stored["signs"], 1, self.folds.blocks * self.folds.windows)
            made.keep_bits("positive", bits.view(self.folds.blocks, self.folds.windows, 1))
        if self.second:
            del made.share
            made.register_buffer("share", from_steps(stored["share"]))
        return made
