"""The interface of an offset rule, and the offsets that it may choose from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from autosample.coding.exact import Exact
from autosample.coding.packing import bits_for, from_bits, pack_bits, to_bits, unpack_bits
from autosample.coding.written import Packed
from autosample.errors import DAMAGED, ArtifactError
from autosample.sampling.checks import check_choice
from autosample.sampling.folds import Folds
from autosample.sampling.geometry import Geometry
from autosample.sampling.hashing import random_offsets
from autosample.sampling.mixture import Mixture
from autosample.sampling.moves import Moves
from autosample.sampling.selection import IN_ORDER, Selection
from autosample.sampling.signs import LearnedSigns
from autosample.sampling.windows import Placement


@dataclass(frozen=True)
class Lattice:
    """The offsets that a rule may choose: `filters × windows` of them, multiples of `grid` up to `limit`.

    A window covers `window` rows. `channels`, `groups` and `kernel` are `M`, the convolution groups and the kernel of
    the layer, for rules that need them.
    """

    filters: int
    windows: int
    limit: int
    grid: int = 1
    window: int = 1
    channels: int = 0
    groups: int = 1
    kernel: tuple[int, ...] = ()

    @classmethod
    def of(cls, geometry: Geometry, groups: int = 1) -> "Lattice":
        """The lattice of a layer."""
        g = geometry
        return cls(g.sampled, g.windows, g.limit, g.grid, g.window, g.channels, groups, g.kernel)

    @property
    def choices(self) -> int:
        """Admissible offsets of one window."""
        return self.limit // self.grid + 1

    @property
    def last(self) -> int:
        """The largest admissible offset [summary rows]."""
        return (self.choices - 1) * self.grid

    @property
    def bits(self) -> int:
        """Bits per stored offset."""
        return bits_for(self.choices)

    @property
    def width(self) -> int:
        """Bits of an offset in rows."""
        return bits_for(self.limit + 1)

    @property
    def table_bits(self) -> int:
        """Bits of a stored table of offsets."""
        return self.filters * self.windows * self.bits

    def steps(self, offsets: Int[Tensor, "n g"]) -> Bool[Tensor, "n g bits"]:
        """Offsets as grid steps in bits."""
        return to_bits(offsets if offsets.is_meta else offsets // self.grid, self.bits)

    def offsets(self, steps: Bool[Tensor, "n g bits"]) -> Int[Tensor, "n g"]:
        """The inverse of `steps`."""
        return from_bits(steps) * self.grid

    def pack(self, steps: Bool[Tensor, "n g bits"]) -> dict[str, Tensor]:
        """The table as a file holds it; nothing if there is only one choice."""
        return {"table": pack_bits(steps)} if self.bits else {}

    def unpack(self, stored: Mapping[str, Tensor]) -> Bool[Tensor, "n g bits"]:
        """The inverse of `pack`.

        Raises:
            ArtifactError: An offset is outside the summary.
        """
        if not self.bits:
            return torch.zeros(self.filters, self.windows, 0, dtype=torch.bool)
        steps = unpack_bits(stored["table"], self.bits, self.filters * self.windows)
        low = (self.choices & -self.choices).bit_length() - 1  # lower bits do not decide whether a step is a choice
        full = self.choices == 1 << self.bits or not steps.numel()
        if not full and int(from_bits(steps[:, low:]).max()) >= self.choices >> low:
            largest = int(from_bits(steps).max())
            raise ArtifactError(f"stored offsets must be below {self.choices}, got {largest}: {DAMAGED}")
        return steps.view(self.filters, self.windows, self.bits)

    def random(self, seed: int | Int[Tensor, ""], device: torch.device | None = None) -> Int[Tensor, "n g"]:
        """Offsets hashed from a seed, uniform over the choices."""
        start = torch.as_tensor(seed, device=device)
        return random_offsets(start, self.filters, self.windows, self.choices) * self.grid

    def strided(self, device: torch.device | None = None) -> Int[Tensor, "n g"]:
        """`o[n, g] = n·S` over the whole summary: `⌊n·last/(N − 1)⌋`, on the grid.

        With `L = K + (N − 1)·S` this is WSNet's and FSNet's integer stride exactly.
        """
        steps = torch.arange(self.filters, device=device) * (self.choices - 1) // max(self.filters - 1, 1)
        return (steps * self.grid).view(-1, 1).expand(self.filters, self.windows)


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """The settings of a rule, the `options` of a spec. A rule with settings has a subclass of this.

    Raises:
        SpecError: A setting has an invalid value.
    """

    def __post_init__(self) -> None:
        for name, words in _words(type(self)):
            check_choice(name, getattr(self, name), words)


@cache
def _words(options: type[RuleOptions]) -> list[tuple[str, tuple[str, ...]]]:
    """The settings that must be one of several words, with these words."""
    hints = get_type_hints(options)
    return [(f.name, get_args(hints[f.name])) for f in fields(options) if get_origin(hints[f.name]) is Literal]


class Offsets(Exact):
    """A rule that decides where the windows of a layer start on its summary. Calling it gives the offsets `(N, G)`.

    A subclass defines `placement`, and `assign` if a warm start may move its windows. `packed` returns the tensors that
    a file must hold, `restored` reads them. What can be computed is not stored; `anchor` gives the device to compute it
    on. Nothing here is as large as the weight. A learned rule keeps its parameters when it is frozen, so checkpoints
    and distributed training keep working. `harden_` then replaces it by `TableOffsets`.

    Args:
        lattice: The admissible offsets.
        options: The rule's settings; the defaults if left out.
        seed: Seed of the layer, for everything pseudo-random.
        in_channels: Channels of the layer's input, for rules that use it.
        device: Device for the tensors.
    """

    #: the settings that the rule knows
    Options: ClassVar[type[RuleOptions]] = RuleOptions
    #: whether offsets are learned in training
    learned = False
    #: whether filter `n` starts at `n·S` in every window, so an integer stride gives the summary's length
    spaced = False
    #: whether `observe` needs the layer's input before each sampling
    watches_input = False

    #: whether a file says which neighbour of its start a window is at, and not its offset
    near = False

    #: what `trace` counts: `rows`, `changes` of a choice, `shares` of a second fold, or a learner's `numbers`
    unit = "rows"

    anchor: Tensor
    moves: Moves | None
    mixture: Mixture | None
    signs: LearnedSigns | None

    def __init__(
        self,
        lattice: Lattice,
        options: RuleOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.lattice, self.seeded_with = lattice, seed
        self.options = self.Options() if options is None else options
        self.moves = None  # how blocks of filters are learned, if they are
        self.mixture = None  # what mixes folds for each example, if something does
        self.signs = None  # the signs of blocks, if they are learned
        # empty and never saved: it only follows the layer from device to device
        self.register_buffer("anchor", torch.empty(0, device=device), persistent=False)

    @property
    def movable(self) -> bool:
        """Whether `assign` has any effect."""
        return type(self).assign is not Offsets.assign

    def placement(self) -> Placement:
        """The present placement, differentiable in everything that the rule learns."""
        raise NotImplementedError

    def folds(self) -> Folds | None:
        """How channel groups are added up with signs; `None` without signs."""
        return None

    def matrix(self, dtype: torch.dtype, device: torch.device | None = None) -> Float[Tensor, "b g"]:
        """The signs of the blocks, for a rule with folds."""
        folds = self.folds()
        assert folds is not None
        return folds.matrix(dtype, device) if self.signs is None else self.signs.matrix(dtype)

    def rated(self) -> list[nn.Parameter]:
        """The parameters that learn at the option `rate`; any others learn like the weights."""
        return []

    def selection(self) -> Selection:
        """What is selected on top of folds."""
        return IN_ORDER

    @property
    def selects(self) -> tuple[str, ...]:
        """What a warm start may select: `assignment`, `permutation`."""
        return ()

    def select(self, chosen: Mapping[str, Int[Tensor, "*n"]]) -> None:
        """Take what `keep_most` has chosen. Rules without selections ignore it."""

    @classmethod
    def unfit(cls, options: Any, filters: int) -> str:
        """Why these settings do not fit a layer with so many filters in a convolution group; empty if they do."""
        return ""

    @classmethod
    def sizes(cls, spec: Any, bare: Geometry) -> Geometry | None:
        """The geometry that a spec gives to a layer, if this rule sizes its summary itself; `bare` has shapes only."""
        return None

    def forward(self) -> Int[Tensor, "n g"]:
        """The integer offsets, multiples of the grid."""
        return self.placement().base

    def followed(self) -> Int[Tensor, "n g"]:
        """What a log of a learned rule follows: its integer offsets."""
        return self()

    def trace(self) -> Tensor | None:
        """What learns now, as a log of its speed follows it: numbers in `unit`. `None` if nothing does."""
        return None

    def pattern(self) -> Int[Tensor, "w"] | None:
        """The rows of a window from its offset on, if they are not consecutive."""
        return None

    def hard_placement(self) -> Placement:
        """The windows at the integer offsets."""
        return Placement(self(), pattern=self.pattern())

    def assign(self, offsets: Int[Tensor, "n g"]) -> None:
        """Move to these offsets, as near as the rule can, for a warm start. Fixed rules ignore it."""

    def freeze(self) -> None:
        """Make what is learned integers, and stop learning it. Fixed rules have nothing to freeze."""

    def reset_parameters(self) -> None:
        """Start again, as a new rule does. Fixed rules have nothing to reset."""

    @classmethod
    def chosen_bits(cls, options: Any, lattice: Lattice) -> int:
        """Bits that a file needs for offsets of this rule that training has chosen."""
        return lattice.table_bits

    def read_near(self, near: bool) -> None:
        """Make a rule on the meta device expect a file of this kind, see `near`.

        Raises:
            ArtifactError: The rule has no such files.
        """
        if near:
            raise ArtifactError(f"the offsets of this rule have no neighbours to choose from: {DAMAGED}")

    def stored_bits(self) -> int:
        """Bits that the offsets take in a file."""
        return 0

    def packed(self) -> dict[str, Tensor]:
        """The tensors that a file needs to restore these offsets, `stored_bits` in total."""
        return {}

    def restored(self, stored: Mapping[str, Tensor]) -> "Offsets":
        """The hardened rule from `stored`, the tensors that `packed` returned. This rule may be on the meta device."""
        return self

    def hardened(self) -> "Offsets":
        """This rule without the parts that only learning needs. Fixed rules return themselves."""
        return self

    def stored_form(self) -> nn.Module:
        """A module without inputs that gives the offsets `(N, G)` in an exported graph, from what the rule stores."""
        return Packed(self().long().cpu(), self.lattice.grid)

    def observe(self, x: Tensor) -> None:
        """Read the layer's input before its weight is sampled (only for rules with `watches_input`)."""

    def forget(self) -> None:
        """Drop what `observe` read, after the weight has been used."""

    def extra_repr(self) -> str:
        p = self.lattice
        return f"{p.filters}x{p.windows} of {p.choices} choices, grid {p.grid}"
