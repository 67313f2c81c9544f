"""Fixed stride: WSNet (Jin et al. 2018, section 3) and FSNet (Yang et al. 2020, section 3). Stores nothing."""

import torch

from autosample.sampling.rules.base import Offsets, Places, strided_positions
from autosample.sampling.spec import Spec
from autosample.sampling.windows import Placement


class StridedOffsets(Offsets):
    """`o[n, g] = n·S` in every group: filter after filter, a step further along the summary."""

    def __init__(self, places: Places, spec: Spec, *, name: str = "", device: torch.device | None = None) -> None:
        super().__init__(places, device)

    def placement(self) -> Placement:
        return Placement(strided_positions(self.places, self.anchor.device))
