"""A learned choice among grid points: hard forward, softmax gradient backward, annealed, then frozen."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from autosample.sampling.checks import check_whole
from autosample.sampling.rules.base import Lattice, RuleOptions
from autosample.sampling.rules.learned import LearnedOffsets, LearnedOptions
from autosample.sampling.windows import Placement


@dataclass(frozen=True, kw_only=True)
class CategoricalOptions(LearnedOptions):
    """Settings of the rule, besides those of every learned rule.

    Attributes:
        candidates: Number of neighbouring grid points that a window chooses from.
    """

    candidates: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("candidates", self.candidates, least=2, fix="8 is usual")


class CategoricalOffsets(LearnedOffsets):
    """Each window takes the best of `candidates` neighbouring grid points around its start.

    The forward pass uses the largest logit alone; backward, `∂ℓ/∂logit[c] = p[c]/τ·(s[c] − Σ p·s)` with
    `p = softmax(logit/τ)` and `s[c] = ⟨∂ℓ/∂W, window at c⟩`. The number of candidates is bounded, so learning costs a
    few passes over the weight for any number of choices.

    Attributes:
        logits: Scores of the candidates, `(N, G, C)`.
        first: First candidate of each window, `(N, G)` [rows].
        temperature: `τ`, a scalar buffer; `anneal` sets it.
    """

    Options: ClassVar[type[RuleOptions]] = CategoricalOptions
    options: CategoricalOptions
    temperature: Tensor

    def __init__(
        self,
        lattice: Lattice,
        options: CategoricalOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, device=device)
        self.count = min(self.options.candidates, lattice.choices)
        self.register_buffer("temperature", torch.ones((), device=device))
        self.logits = nn.Parameter(torch.empty(lattice.filters, lattice.windows, self.count, device=device))
        self.assign(self.start())

    @torch.no_grad()
    def assign(self, offsets: Int[Tensor, "n g"]) -> None:
        step = offsets // self.lattice.grid
        first = (step - self.count // 2).clamp(0, self.lattice.choices - self.count)
        self.keep("first", first * self.lattice.grid, self.lattice.width)
        self.logits.zero_().scatter_(2, (step - first).long().unsqueeze(-1), 0.1)  # a small lead for the start

    def anneal(self, progress: float) -> None:
        """Lower the temperature from 1 to 0.1."""
        self.temperature.fill_(10.0 ** -min(max(progress, 0.0), 1.0))

    def hard_offsets(self) -> Int[Tensor, "n g"]:
        return self.kept("first") + self.logits.argmax(-1) * self.lattice.grid

    def soft_placement(self) -> Placement:
        weights = torch.softmax(self.logits / self.temperature, -1)
        return Placement(self.kept("first"), weights, self.lattice.grid, hard=True)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.count} candidates"
