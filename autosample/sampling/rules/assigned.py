"""Offsets that a warm start assigns: vector quantisation, as in Deep k-Means (Wu et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from autosample.sampling.checks import check_share
from autosample.sampling.rules.base import Lattice, RuleOptions
from autosample.sampling.rules.table import TableOffsets, start_offsets


@dataclass(frozen=True, kw_only=True)
class AssignedOptions(RuleOptions):
    """Settings of the rule.

    Attributes:
        start: Offsets without a warm start: those of the strided rule, or random ones.
        zeros: Share of the windows, the smallest ones, to which a warm start gives a codeword of zeros (the sparse
            variant of Deep k-Means). It needs disjoint windows.
    """

    start: Literal["strided", "random"] = "strided"
    zeros: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("zeros", self.zeros, fix="0.5 is half of the windows")


class AssignedOffsets(TableOffsets):
    """A table that a warm start fills and training does not change. Without a warm start it is filled by `start`."""

    Options: ClassVar[type[RuleOptions]] = AssignedOptions

    def __init__(
        self,
        lattice: Lattice,
        options: AssignedOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        options = AssignedOptions() if options is None else options
        super().__init__(lattice, start_offsets(lattice, options.start, seed, device))
        self.options, self.seeded_with = options, seed

    def assign(self, offsets: Int[Tensor, "n g"]) -> None:
        self.keep_bits("table", self.lattice.steps(offsets.to(self.anchor.device)))

    def fresh(self, name: str) -> Tensor:
        return start_offsets(self.lattice, self.options.start, self.seeded_with, None) // self.lattice.grid
