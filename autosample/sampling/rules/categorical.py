"""A learned choice among grid positions: hard forward, softmax gradient backward, annealed, then frozen."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.sampling.rules.base import LearnedOffsets, Places, start_positions
from autosample.sampling.spec import Spec
from autosample.sampling.windows import Placement


class CategoricalOffsets(LearnedOffsets):
    """Each window takes the best of `candidates` neighbouring grid positions around its start.

    The forward pass uses the largest logit alone; backward, `∂ℓ/∂logit[c] = p[c]/τ·(s[c] − Σ p·s)` with
    `p = softmax(logit/τ)` and `s[c] = ⟨∂ℓ/∂W, window at c⟩`. Candidates are bounded so that learning costs a few
    passes over the weight, whatever the number of positions.

    Attributes:
        logits: Scores of the candidates, `(N, G, C)`.
        first: First candidate of each window, `(N, G)` [rows].
        temperature: `τ`, a scalar buffer; `anneal` sets it.
    """

    first: Tensor
    temperature: Tensor

    def __init__(self, places: Places, spec: Spec, *, name: str = "", device: torch.device | None = None) -> None:
        super().__init__(places, start_positions(places, spec, name, device))
        self.count = min(spec.candidates, places.choices)
        self.register_buffer("first", torch.zeros_like(self.table))
        self.register_buffer("temperature", torch.ones((), device=device))
        self.logits = nn.Parameter(torch.empty(places.filters, places.groups, self.count, device=device))
        self.assign(self.table)

    @torch.no_grad()
    def assign(self, positions: Int[Tensor, "n g"]) -> None:
        step = positions // self.places.grid
        first = (step - self.count // 2).clamp(0, self.places.choices - self.count)
        self.first.copy_(first * self.places.grid)
        self.logits.zero_().scatter_(2, (step - first).long().unsqueeze(-1), 0.1)  # a slight lead for the start

    def anneal(self, progress: float) -> None:
        """Lower the temperature from 1 to 0.1."""
        self.temperature.fill_(10.0 ** -min(max(progress, 0.0), 1.0))

    def hard_positions(self) -> Int[Tensor, "n g"]:
        return self.first.long() + self.logits.argmax(-1) * self.places.grid

    def scores(self) -> Float[Tensor, "n g c"]:
        """What candidates are chosen by, before freezing."""
        return self.logits

    def soft_placement(self) -> Placement:
        weights = torch.softmax(self.scores() / self.temperature, -1)
        return Placement(self.first.long(), weights, self.places.grid, hard=True)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.count} candidates"
