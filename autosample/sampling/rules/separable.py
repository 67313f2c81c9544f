"""Two rules added up, `o[n, g] = a[n] + δ[g]`: `a` samples space per filter, `δ` selects channels per group."""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from autosample.sampling.rules.base import LearnedOffsets, Offsets, Places
from autosample.sampling.spec import Spec
from autosample.sampling.windows import Placement, compose


class SeparableOffsets(Offsets):
    """`N + G` numbers instead of `N·G`. With `spread = 0` every group uses the same windows: WSNet is `δ = 0`.

    `spread` is the share of the admissible range that `δ` may use; `a` has the rest.
    """

    def __init__(self, places: Places, spec: Spec, *, name: str = "", device: torch.device | None = None) -> None:
        super().__init__(places, device)
        from autosample.sampling.rules import OFFSET_RULES

        across = int(spec.spread * (places.choices - 1)) * places.grid
        along = places.last - across
        self.along = OFFSET_RULES[spec.along](
            Places(places.filters, 1, along, places.grid), spec, name=f"{name}/along", device=device
        )
        self.across = OFFSET_RULES[spec.across](
            Places(1, places.groups, across, places.grid), spec, name=f"{name}/across", device=device
        )

    @property
    def parts(self) -> tuple[Offsets, Offsets]:
        return self.along, self.across

    @property
    def learned(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.along.learned or self.across.learned

    @property
    def movable(self) -> bool:
        return self.learned

    @property
    def is_frozen(self) -> bool:
        return all(part.is_frozen for part in self.parts if isinstance(part, LearnedOffsets))

    def freeze(self) -> None:
        """Freeze whichever part learns."""
        for part in self.parts:
            if isinstance(part, LearnedOffsets):
                part.freeze()

    def assign(self, positions: Int[Tensor, "n g"]) -> None:
        """Set the learned parts to the sum `a[n] + δ[g]` nearest to `positions`, by medians."""
        if isinstance(self.across, LearnedOffsets):
            self.across.assign(self._admit(self.across, (positions - self.along.positions()).median(0).values[None]))
        if isinstance(self.along, LearnedOffsets):
            rest = positions - self.across.positions()
            self.along.assign(self._admit(self.along, rest.median(1).values[:, None]))

    @staticmethod
    def _admit(part: Offsets, positions: Int[Tensor, "n g"]) -> Int[Tensor, "n g"]:
        return (positions // part.places.grid * part.places.grid).clamp(0, part.places.last)

    def placement(self) -> Placement:
        return compose(self.along.placement(), self.across.placement())

    def positions(self) -> Int[Tensor, "n g"]:
        return self.along.positions() + self.across.positions()

    def stored_bits(self) -> int:
        return self.along.stored_bits() + self.across.stored_bits()

    def packed(self) -> dict[str, Tensor]:
        along = {f"along.{name}": tensor for name, tensor in self.along.packed().items()}
        return along | {f"across.{name}": tensor for name, tensor in self.across.packed().items()}

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        for name in ("along", "across"):
            own = {key[len(name) + 1 :]: tensor for key, tensor in stored.items() if key.startswith(f"{name}.")}
            setattr(self, name, getattr(self, name).restored(own))
        return self

    def hardened(self) -> Offsets:
        self.along, self.across = self.along.hardened(), self.across.hardened()
        return self
