"""Folds that are mixed for each example by a small learner; see `autosample.sampling.mixture`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autosample.sampling.checks import check_whole
from autosample.sampling.folds import order
from autosample.sampling.mixture import Mixture
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.rules.blocks import BlockOffsets, BlockOptions


@dataclass(frozen=True, kw_only=True)
class ConditionedOptions(BlockOptions):
    """Settings of the rule, besides those of signs by block.

    Attributes:
        experts: Folds that are mixed for each block of filters; at most as many as there are rows of signs.
        hidden: Numbers between the two linear layers of the learner. It stores `hidden·G + (experts − 1)·(hidden + 1)`
            numbers of 16 bits, from −8 to 8.
    """

    experts: int = 4
    hidden: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("experts", self.experts, least=2, fix="4 is usual")
        check_whole("hidden", self.hidden, least=1, fix="4 is usual")


class ConditionedOffsets(BlockOffsets):
    """Signs by block that are mixed for each example. A layer without folds has nothing to mix, and no learner."""

    Options: ClassVar[type[RuleOptions]] = ConditionedOptions
    options: ConditionedOptions
    unit = "numbers"

    def __init__(
        self,
        lattice: Lattice,
        options: ConditionedOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, in_channels=in_channels, device=device)
        if (folds := self.folds()) is not None:
            experts = min(self.options.experts, order(lattice.windows))
            self.mixture = Mixture(folds, experts, self.options.hidden, device)

    def trace(self) -> Tensor | None:
        mixture = self.mixture
        if mixture is None or not mixture.learns:
            return None
        return torch.cat([mixture.reader.flatten(), mixture.chooser.flatten()])

    def reset_parameters(self) -> None:
        if self.mixture is not None and self.mixture.learns:
            self.mixture.reset()

    def stored_bits(self) -> int:
        return 0 if self.mixture is None else self.mixture.stored_bits()

    def packed(self) -> dict[str, Tensor]:
        return {} if self.mixture is None else self.mixture.packed()

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        made = ConditionedOffsets(self.lattice, self.options, seed=self.seeded_with, device=torch.device("meta"))
        made.mixture = None if self.mixture is None else self.mixture.fixed(stored)
        device = next((tensor.device for tensor in stored.values()), None)
        made.register_buffer("anchor", torch.empty(0, device=device), persistent=False)
        return made

    def hardened(self) -> Offsets:
        made = self.restored(self.packed())
        made.register_buffer("anchor", self.anchor, persistent=False)
        return made
