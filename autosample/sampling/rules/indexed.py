"""Offsets from an index learner that reads the layer's input: NES (Zhou et al. 2020, section 3.2)."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from autosample.sampling.rules.base import Lattice
from autosample.sampling.rules.interpolated import between_neighbours
from autosample.sampling.rules.learned import LearnedOffsets, LearnedOptions
from autosample.sampling.windows import Placement

# Share of the newest batch in the routing map (the paper's 1 - decay).
_MOMENTUM = 0.03
_HIDDEN = 16


class IndexedOffsets(LearnedOffsets):
    """In training, offsets are predicted from the input and averaged into a routing map; otherwise the map is used.

    The learner is two pointwise layers with a ReLU on the mean of the input over space, then a sigmoid, averaged over
    the batch and scaled to the admissible range. (The paper averages over space after the learner; pooling first costs
    `M·H + H·N·G` per sample instead of per position.) Hardening drops it.

    Attributes:
        routing: The moving average of offsets, `(N, G)` [grid steps].
        learner: The two layers; `None` if the input has no channels.
    """

    watches_input = True
    routing: Tensor

    def __init__(
        self,
        lattice: Lattice,
        options: LearnedOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, device=device)
        self.register_buffer("routing", self.start() / lattice.grid)
        self.channels = in_channels
        self.learner = self._new_learner() if in_channels else None
        self._current: Tensor | None = None

    def _new_learner(self) -> nn.Sequential:
        """An index learner whose first predictions are the routing map."""
        device, outputs = self.routing.device, self.routing.numel()
        first = nn.Linear(self.channels, _HIDDEN, device=device)
        last = nn.Linear(_HIDDEN, outputs, device=device)
        share = (self.routing.reshape(-1) / max(self.lattice.choices - 1, 1)).clamp(1e-3, 1 - 1e-3)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(torch.log(share) - torch.log1p(-share))
        return nn.Sequential(first, nn.ReLU(), last)

    @torch.no_grad()
    def assign(self, offsets: Int[Tensor, "n g"]) -> None:
        self.routing.copy_(offsets / self.lattice.grid)
        if self.learner is not None:
            self.learner = self._new_learner()

    def observe(self, x: Tensor) -> None:
        """Predict offsets for a batch `(B, C, *space)` or `(…, C)` already pooled to `(B, C)`; move the map."""
        if self.is_frozen or not self.training or self.learner is None:
            self._current = None
            return
        precision = next(self.learner.parameters()).dtype
        share = torch.sigmoid(self.learner(x.to(precision))).float().mean(0).view_as(self.routing)
        self._current = share * (self.lattice.choices - 1)
        with torch.no_grad():
            self.routing.lerp_(self._current.detach().to(self.routing.dtype), _MOMENTUM)

    def forget(self) -> None:
        """Drop the prediction of the last batch."""
        self._current = None

    def hard_offsets(self) -> Int[Tensor, "n g"]:
        return self.routing.round().long().clamp_(0, self.lattice.choices - 1) * self.lattice.grid

    def soft_placement(self) -> Placement:
        return between_neighbours(self.routing if self._current is None else self._current, self.lattice)
