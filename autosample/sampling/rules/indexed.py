"""Positions from an index learner that looks at the layer's input: NES (Zhou et al. 2020, section 3.2)."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from autosample.sampling.rules.base import LearnedOffsets, Places, start_positions
from autosample.sampling.rules.interpolated import linear_mixture
from autosample.sampling.spec import Spec
from autosample.sampling.windows import Placement

# Share of the newest batch in the routing map (the paper's 1 - decay).
_MOMENTUM = 0.03
_HIDDEN = 16


class IndexedOffsets(LearnedOffsets):
    """While training, positions are predicted from the input and averaged into a routing map; else the map is used.

    The learner is two pointwise layers with a ReLU on the mean of the input over space, then a sigmoid, averaged
    over the batch and scaled by the admissible range. (The paper averages over space after the learner; pooling
    first costs `M·H + H·N·G` a sample instead of that per position.) It is dropped by hardening.

    Attributes:
        routing: The moving average of positions, `(N, G)` [grid steps].
        learner: The two layers, built when the layer's input channels are known (`attach`).
    """

    watches_input = True
    routing: Tensor

    def __init__(self, places: Places, spec: Spec, *, name: str = "", device: torch.device | None = None) -> None:
        start = start_positions(places, spec, name, device)
        super().__init__(places, start)
        self.register_buffer("routing", start / places.grid)
        self.learner: nn.Sequential | None = None
        self.channels = 0
        self._current: Tensor | None = None

    def attach(self, channels: int) -> None:
        """Build the index learner for inputs of `channels` channels; it starts at the routing map."""
        self.channels, device = channels, self.routing.device
        outputs = self.routing.numel()
        first = nn.Linear(channels, _HIDDEN, device=device)
        last = nn.Linear(_HIDDEN, outputs, device=device)
        share = (self.routing.reshape(-1) / max(self.places.choices - 1, 1)).clamp(1e-3, 1 - 1e-3)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(torch.log(share) - torch.log1p(-share))
        self.learner = nn.Sequential(first, nn.ReLU(), last)

    @torch.no_grad()
    def assign(self, positions: Int[Tensor, "n g"]) -> None:
        self.routing.copy_(positions / self.places.grid)
        if self.learner is not None:
            self.attach(self.channels)

    def observe(self, x: Tensor) -> None:
        """Predict positions for a batch `(B, C, *space)` or `(…, C)` already pooled to `(B, C)`; move the map."""
        if self.is_frozen or not self.training or self.learner is None:
            self._current = None
            return
        precision = next(self.learner.parameters()).dtype
        share = torch.sigmoid(self.learner(x.to(precision))).float().mean(0).view_as(self.routing)
        self._current = share * (self.places.choices - 1)
        with torch.no_grad():
            self.routing.lerp_(self._current.detach().to(self.routing.dtype), _MOMENTUM)

    def forget(self) -> None:
        """Drop the prediction of the last batch."""
        self._current = None

    def hard_positions(self) -> Int[Tensor, "n g"]:
        return self.routing.round().long().clamp_(0, self.places.choices - 1) * self.places.grid

    def soft_placement(self) -> Placement:
        steps = self.routing if self._current is None else self._current
        count = min(2, self.places.choices)
        first = steps.detach().floor().long().clamp_(0, self.places.choices - count)
        distance = first.unsqueeze(-1) + torch.arange(count, device=steps.device) - steps.unsqueeze(-1)
        return Placement(first * self.places.grid, linear_mixture(distance), self.places.grid)
