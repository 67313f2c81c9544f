"""Folded sampling: each block of filters sees the channel groups added up with signs of its own.

Nothing is stored, unless blocks or the order of channels are selected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from autosample.coding.packing import bits_for, from_bits, pack_bits, unpack_bits
from autosample.errors import DAMAGED, ArtifactError, SpecError
from autosample.sampling.checks import Number, check_number, check_share, check_whole
from autosample.sampling.folds import Folds
from autosample.sampling.moves import Moves
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.rules.blocks import BlockOffsets, BlockOptions
from autosample.sampling.selection import IN_ORDER, Selection, slots_of
from autosample.sampling.signs import LearnedSigns

# What can be selected; each is an option.
_SELECTED = ("assignment", "permutation")


@dataclass(frozen=True, kw_only=True)
class FoldedOptions(BlockOptions):
    """Settings of the rule, besides those of signs by block.

    Attributes:
        assignment: Which block a filter is in: `fixed` cuts the filters into blocks in order, `energy` lets a warm
            start choose what keeps the most of the weights, and `learned` lets filters change places in training too.
            Costs the bits of a block's number for each filter.
        permutation: The order of the channels before they are folded: `fixed`, or chosen by a warm start, by `energy`.
            Costs the bits of a channel's number for each channel.
        signs: The signs with which a block adds up the channel groups: `fixed`, rows of a Hadamard matrix, or `learned`
            from there, straight-through. Costs a bit for each block and channel group.
        mixing: Folds that a block sees: `one`, or `two`, the second one with a learned share. Costs 16 bits a block.
        rate: Learning rate of the numbers whose signs are learned; they begin at 1 or −1. `None` means that of the
            weights.
        every: Steps between moves of learned filters.
        moves: Largest share of the filters that change places at once.
        freeze_at: Share of the training after which learned filters and signs stay.
    """

    assignment: Literal["fixed", "energy", "learned"] = "fixed"
    permutation: Literal["fixed", "energy"] = "fixed"
    signs: Literal["fixed", "learned"] = "fixed"
    mixing: Literal["one", "two"] = "one"
    rate: Number | None = 0.02
    every: int = 50
    moves: Number = 0.1
    freeze_at: Number = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("every", self.every, least=1, fix="50 is usual")
        check_share("moves", self.moves, fix="0.1 is usual")
        check_number("rate", self.rate, above=0.0, fix="0.02 is usual with Adam")
        check_share("freeze_at", self.freeze_at, fix="0.6 is usual")
        if self.assignment == "learned" and (self.signs, self.mixing) != ("fixed", "one"):
            got = f"signs {self.signs} and mixing {self.mixing}"
            raise SpecError(f"filters move between fixed signs, got assignment learned with {got}: use energy")


class FoldedOffsets(BlockOffsets):
    """Signs by block, and what is selected on top of them."""

    Options: ClassVar[type[RuleOptions]] = FoldedOptions
    options: FoldedOptions

    def __init__(
        self,
        lattice: Lattice,
        options: FoldedOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, in_channels=in_channels, device=device)
        if (folds := self.folds()) is not None:
            for name in _SELECTED:
                if getattr(self.options, name) != "fixed":
                    width = bits_for(folds.blocks if name == "assignment" else folds.channels)
                    self.keep(name, self._usual(name, folds).to(self.anchor.device), width)
            if self.options.assignment == "learned":
                self.moves = Moves(folds, self.options.every, self.options.moves, device)
                self._thaw()
            signs, second = self.options.signs == "learned", self.options.mixing == "two"
            if signs or second:
                self.signs = LearnedSigns(folds, signs, second, device)
            self.learned = self.moves is not None or signs
            self.unit = "changes" if self.learned else "shares"

    @staticmethod
    def _usual(name: str, folds: Folds) -> Tensor:
        """What is used if nothing is selected."""
        return folds.block() if name == "assignment" else torch.arange(folds.channels)

    def _thaw(self) -> None:
        # zero until they are frozen, as for learned offsets
        self.keep_bits("assignment", torch.zeros_like(self.get_buffer("assignment_bits")))

    def fresh(self, name: str) -> Tensor:
        folds = self.folds()
        assert folds is not None
        usual = self._usual(name, folds)
        return torch.zeros_like(usual) if name == "assignment" and self.moves is not None else usual

    def selection(self) -> Selection:
        if not self.selects:
            return IN_ORDER
        folds, kept = self.folds(), {name: from_bits(self._bits(name)) for name in self.selects}
        assert folds is not None
        blocks = kept.get("assignment")
        return Selection(None if blocks is None else slots_of(blocks, folds), kept.get("permutation"))

    @property
    def selects(self) -> tuple[str, ...]:
        return tuple(name for name in _SELECTED if f"{name}_bits" in self._buffers)

    def select(self, chosen: Mapping[str, Int[Tensor, "*n"]]) -> None:
        for name in self.selects:
            owner, kept = self, name
            if name == "assignment" and self.moves is not None:
                owner, kept = self.moves, "present"
            owner.keep(kept, chosen[name], self._bits(name).shape[-1])

    def _bits(self, name: str) -> Bool[Tensor, "n width"]:
        """What is selected now."""
        if name == "assignment" and self.moves is not None and not self.moves.is_frozen:
            return self.moves.get_buffer("present_bits")
        return self.get_buffer(f"{name}_bits")

    @property
    def is_frozen(self) -> bool:
        """Whether learned blocks and signs no longer change."""
        return all(part.is_frozen for part in (self.moves, self.signs) if part is not None)

    def followed(self) -> Int[Tensor, "n g"]:
        if self.signs is not None:
            return from_bits(self.signs.present())
        return from_bits(self._bits("assignment"))[:, None]

    def trace(self) -> Tensor | None:
        if self.learned:
            return None if self.is_frozen else self.followed()
        share = None if self.signs is None else self.signs.share
        return share if isinstance(share, nn.Parameter) else None

    def freeze(self) -> None:
        """Keep the present blocks and signs, and stop learning them."""
        if self.signs is not None:
            self.signs.freeze()
        if self.moves is not None and not self.moves.is_frozen:
            self.keep_bits("assignment", self._bits("assignment").clone())
            self.moves.freeze()

    def train(self, mode: bool = True):
        """Switch modes. An average of models (EMA) that received the buffers of a frozen model notices it here."""
        for part in (self.moves, self.signs):
            if part is not None:
                part.notice()
        return super().train(mode)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.moves is not None and (flag := state_dict.get(f"{prefix}moves.frozen_bits")) is not None:
            self.moves.is_frozen = bool(flag)

    def reset_parameters(self) -> None:
        if self.moves is not None:
            self.moves.reset()
            self._thaw()
        if self.signs is not None:
            self.signs.reset()

    def rated(self) -> list[nn.Parameter]:
        learned = None if self.signs is None else self.signs.leaning
        return [learned] if isinstance(learned, nn.Parameter) else []

    def hardened(self) -> Offsets:
        made = self._bare()
        if self.signs is not None:
            made.signs = self.signs.fixed(self.signs.packed()).to(self.anchor.device)
        return made

    def _bare(self) -> "FoldedOffsets":
        """The rule with its blocks and channels, but without what learns."""
        if self.moves is None and self.signs is None:
            return self
        assignment = "energy" if self.moves is not None else self.options.assignment
        options = replace(self.options, assignment=assignment, signs="fixed", mixing="one")
        made = FoldedOffsets(self.lattice, options, seed=self.seeded_with, device=self.anchor.device)
        for name in self.selects:
            made.keep_bits(name, self._bits(name).clone())
        return made

    def stored_bits(self) -> int:
        signs = 0 if self.signs is None else self.signs.stored_bits()
        return sum(self._bits(name).numel() for name in self.selects) + signs

    def packed(self) -> dict[str, Tensor]:
        signs = {} if self.signs is None else self.signs.packed()
        return {**{name: pack_bits(self._bits(name)) for name in self.selects}, **signs}

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        made, folds = self._bare(), self.folds()
        if self.signs is not None:
            made.signs = self.signs.fixed(stored)
        for name in self.selects:
            assert folds is not None
            count, width = self._bits(name).shape
            values = unpack_bits(stored[name], width, count)
            groups = folds.groups if name == "assignment" else 1
            usual = self._usual(name, folds).view(groups, -1)
            if not torch.equal(from_bits(values).view(groups, -1).sort(1).values, usual):
                raise ArtifactError(f"a stored {name} must be the usual one in another order: {DAMAGED}")
            made.keep_bits(name, values)
        return made
