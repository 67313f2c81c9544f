"""Fixed stride: WSNet (Jin et al. 2018, section 3) and FSNet (Yang et al. 2020, section 3). Stores nothing."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Int
from torch import Tensor, nn

from autosample.sampling.checks import check_whole
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.windows import Placement


@dataclass(frozen=True, kw_only=True)
class StridedOptions(RuleOptions):
    """Settings of the rule.

    Attributes:
        spatial, channel: WSNet's compactness along the taps and along the channels, instead of a ratio: S8C4 is
            `spatial=8, channel=4`.
        strides: `whole` strides, as in the papers, meet a ratio only roughly; with `any` the summary has the length
            that the ratio asks for, and windows are spread evenly and rounded to rows.
    """

    spatial: int | None = None
    channel: int | None = None
    strides: Literal["whole", "any"] = "whole"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("spatial", "channel"):
            check_whole(name, getattr(self, name), least=1, fix="leave it out if the ratio is given")


class StridedOffsets(Offsets):
    """`o[n, g] = n·S` in every window: each filter starts one step further along the summary."""

    Options: ClassVar[type[RuleOptions]] = StridedOptions
    spaced = True

    def placement(self) -> Placement:
        return Placement(self.lattice.strided(self.anchor.device))

    def stored_form(self) -> nn.Module:
        return Spaced(self.lattice)


class Spaced(nn.Module):
    """Offsets of a fixed stride in an exported graph: nothing is stored."""

    def __init__(self, lattice: Lattice) -> None:
        super().__init__()
        self.lattice = lattice

    def forward(self) -> Int[Tensor, "n g"]:
        return self.lattice.strided()
