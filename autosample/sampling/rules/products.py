"""Settings of sum-product layers (StrassenNets), which have no summary; the layers are in `autosample.nn`."""

from dataclasses import dataclass
from typing import ClassVar

from autosample.coding.ternary import Quantiser
from autosample.errors import SpecError
from autosample.sampling.checks import Number, check_number, check_share, check_whole
from autosample.sampling.rules.base import RuleOptions


@dataclass(frozen=True, kw_only=True)
class ProductOptions(RuleOptions):
    """Settings of the method.

    Attributes:
        products: Multiplications of a layer for one output patch, divided by its output channels: `r/c_out`. Instead of
            a ratio.
        patch: Side `p` of the output patches of a convolution; its linear layers have none.
        groups: Groups of channels that the first matrix keeps apart, as in the paper.
        quantizer: `rescaled` cuts at 0.7 times the mean size, and has a scale; `plain` cuts at 0.5.
        ternary_at: Share of the training after which the matrices are used with ternary entries.
        freeze_at: Share after which they are frozen, and only factors and norms learn.
    """

    products: Number | None = None
    patch: int = 1
    groups: int = 1
    quantizer: Quantiser = "rescaled"
    ternary_at: Number = 0.8
    freeze_at: Number = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("products", self.products, above=0, fix="1 is a multiplication per output channel and patch")
        check_whole("patch", self.patch, least=1, fix="1 and 2 are usual")
        check_whole("groups", self.groups, least=1, fix="1 is usual")
        check_share("ternary_at", self.ternary_at, fix="0.8 is usual")
        check_share("freeze_at", self.freeze_at, fix="0.95 is usual")
        if self.freeze_at < self.ternary_at:
            raise SpecError(
                f"freeze_at must not be below ternary_at, got {self.freeze_at:g} and {self.ternary_at:g}: entries are "
                "ternary before they are frozen"
            )


class SumProducts:
    """The row of sum-product layers in the table of rules."""

    Options: ClassVar[type[RuleOptions]] = ProductOptions
