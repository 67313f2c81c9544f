"""A learned choice among grid points: hard forward, softmax gradient backward, annealed, then frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from autosample.coding.packing import bits_for, from_bits, pack_bits, to_bits, unpack_bits
from autosample.errors import DAMAGED, ArtifactError
from autosample.sampling.checks import check_whole
from autosample.sampling.hashing import SEED_BITS
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.rules.learned import LearnedOffsets, LearnedOptions
from autosample.sampling.rules.table import start_offsets
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

    A file holds which of them, 3 bits for eight, and the seed of a random start. After a warm start, which puts windows
    anywhere, it holds offsets.

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
        self._near = True  # what a file holds, as long as there are no numbers
        self.count = min(self.options.candidates, lattice.choices)
        self.register_buffer("temperature", torch.ones((), device=device))
        self.logits = nn.Parameter(torch.empty(lattice.filters, lattice.windows, self.count, device=device))
        self.assign(self.start())

    @torch.no_grad()
    def assign(self, offsets: Int[Tensor, "n g"]) -> None:
        step = offsets // self.lattice.grid
        first = first_candidates(offsets, self.lattice, self.count)
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

    @classmethod
    def chosen_bits(cls, options: CategoricalOptions, lattice: Lattice) -> int:
        return min(_near_bits(options, lattice), lattice.table_bits)

    @property
    def near(self) -> bool:
        """Whether the candidates are those around the start, and saying which of them takes fewer bits."""
        if _near_bits(self.options, self.lattice) >= self.lattice.table_bits or self.anchor.is_meta:
            return self._near and _near_bits(self.options, self.lattice) < self.lattice.table_bits
        first = first_candidates(self.start(), self.lattice, self.count)
        return torch.equal(self.kept("first"), first * self.lattice.grid)

    def read_near(self, near: bool) -> None:
        self._near = near

    def stored_bits(self) -> int:
        return _near_bits(self.options, self.lattice) if self.near else self.lattice.table_bits

    def hardened(self) -> Offsets:
        if not self.near:
            return super().hardened()
        chosen = (self() - self.kept("first")) // self.lattice.grid
        return NearOffsets(self.lattice, self.options, to_bits(chosen, bits_for(self.count)), seed=self.seeded_with)

    def packed(self) -> dict[str, Tensor]:
        return self.hardened().packed() if self.near else super().packed()

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        if "choice" not in stored:
            return super().restored(stored)
        width, shape = bits_for(self.count), (self.lattice.filters, self.lattice.windows)
        empty = torch.zeros(*shape, width, dtype=torch.bool)
        return NearOffsets(self.lattice, self.options, empty).restored(stored)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.count} candidates"


class NearOffsets(Offsets):
    """What is left of learned choices: which neighbour of its start each window is at.

    Args:
        lattice: The admissible offsets.
        options: The rule's settings, for the start.
        chosen: Numbers of the neighbours, as bits.
        seed: Seed of a random start.
    """

    near = True
    options: CategoricalOptions

    def __init__(
        self, lattice: Lattice, options: CategoricalOptions, chosen: Bool[Tensor, "n g bits"], seed: int = 0
    ) -> None:
        super().__init__(lattice, options, seed=seed, device=chosen.device)
        self.keep_bits("choice", chosen)
        self.keep("seed", torch.tensor(seed, device=chosen.device), SEED_BITS)

    @property
    def count(self) -> int:
        """Candidates of a window."""
        return min(self.options.candidates, self.lattice.choices)

    def placement(self) -> Placement:
        p = self.lattice
        start = start_offsets(p, self.options.start, self.kept("seed"), self.anchor.device)
        return Placement((first_candidates(start, p, self.count) + self.kept("choice")) * p.grid)

    def read_near(self, near: bool) -> None:
        pass

    def stored_bits(self) -> int:
        return _near_bits(self.options, self.lattice)

    def packed(self) -> dict[str, Tensor]:
        seed = {"seed": self.kept("seed")} if self.options.start == "random" else {}
        return {"choice": pack_bits(self.get_buffer("choice_bits")), **seed}

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        """The choices in a file.

        Raises:
            ArtifactError: A window is at none of its candidates.
        """
        p, width = self.lattice, bits_for(self.count)
        chosen = unpack_bits(stored["choice"], width, p.filters * p.windows).view(p.filters, p.windows, width)
        if int(from_bits(chosen).max()) >= self.count:
            raise ArtifactError(f"stored choices must be below {self.count}, got larger ones: {DAMAGED}")
        self.keep_bits("choice", chosen)
        if "seed" in stored:
            self.keep("seed", stored["seed"], SEED_BITS)
        return self


def first_candidates(start: Int[Tensor, "n g"], lattice: Lattice, count: int) -> Int[Tensor, "n g"]:
    """The first of `count` candidates around each start [grid steps]."""
    return (start // lattice.grid - count // 2).clamp(0, lattice.choices - count)


def _near_bits(options: CategoricalOptions, lattice: Lattice) -> int:
    """Bits of the choices among neighbours of a start, and of the start's seed."""
    each = bits_for(min(options.candidates, lattice.choices))
    return lattice.filters * lattice.windows * each + (SEED_BITS if options.start == "random" else 0)
