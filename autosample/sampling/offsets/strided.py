"""Fixed stride: WSNet (Jin et al. 2018, section 3) and FSNet (Yang et al. 2020, section 3). Stores nothing."""

import torch

from autosample.sampling.offsets.base import Offsets, Places, strided_positions
from autosample.sampling.windows import Placement
from autosample.spec import Spec


class StridedOffsets(Offsets):
    """`o[n, g] = n·S` in every group: filter after filter, a step further along the summary."""

    def __init__(self, places: Places, spec: Spec, *, name: str = "", device: torch.device | None = None) -> None:
        super().__init__(places)
        # one number that only tells on which device positions are wanted; it is not saved
        self.register_buffer("_device", torch.empty(0, device=device), persistent=False)

    def placement(self) -> Placement:
        return Placement(strided_positions(self.places, self._device.device))
