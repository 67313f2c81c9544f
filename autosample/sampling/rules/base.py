"""The face that every offset rule shows to a layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from autosample.coding.packing import bits_for, pack, unpack
from autosample.errors import ArtifactError
from autosample.sampling.geometry import Geometry
from autosample.sampling.hashing import layer_seed, random_positions
from autosample.sampling.spec import Spec
from autosample.sampling.windows import Placement


@dataclass(frozen=True)
class Places:
    """The table of positions that a rule fills: `filters × groups` of them, multiples of `grid` up to `limit`."""

    filters: int
    groups: int
    limit: int
    grid: int = 1

    @classmethod
    def of(cls, geometry: Geometry) -> "Places":
        return cls(geometry.sampled, geometry.windows, geometry.limit, geometry.grid)

    @property
    def choices(self) -> int:
        """Admissible positions of one window."""
        return self.limit // self.grid + 1

    @property
    def last(self) -> int:
        """The largest admissible position [rows]."""
        return (self.choices - 1) * self.grid

    @property
    def bits(self) -> int:
        """Bits of one stored position."""
        return bits_for(self.choices)

    @property
    def table_bits(self) -> int:
        """Bits of a stored table of positions."""
        return self.filters * self.groups * self.bits

    def pack(self, positions: Int[Tensor, "n g"]) -> dict[str, Tensor]:
        """The table as a file holds it: grid steps at `bits` each, nothing where there is but one place to be."""
        return {"table": pack(positions // self.grid, self.bits)} if self.bits else {}

    def unpack(self, stored: Mapping[str, Tensor]) -> Int[Tensor, "n g"]:
        """The inverse of `pack`.

        Raises:
            ArtifactError: A position lies outside of the summary.
        """
        if not self.bits:
            return torch.zeros(self.filters, self.groups, dtype=torch.long)
        steps = unpack(stored["table"], self.bits, self.filters * self.groups).view(self.filters, self.groups)
        if steps.numel() and int(steps.max()) >= self.choices:
            raise ArtifactError(
                f"stored positions must be below {self.choices}, got {int(steps.max())}: use an undamaged file"
            )
        return steps * self.grid


class Offsets(nn.Module):
    """A rule that says where the windows of a layer lie on its summary. Calling it gives integer positions `(N, G)`.

    A subclass defines `placement`, and `assign` if a warm start may move its windows. What it has to remember it gives
    to files with `packed`, and takes from them with `restored`; what can be computed is not kept, and `anchor` tells on
    which device to make it. Nothing here is as large as the weight. Learned rules keep the structure of their
    parameters when frozen, so that checkpoints and distributed training go on undisturbed; `harden_` then replaces
    them by `TableOffsets`.
    """

    learned = False
    #: whether `observe` needs the layer's input before each sampling
    watches_input = False

    anchor: Tensor

    def __init__(self, places: Places, device: torch.device | None = None) -> None:
        super().__init__()
        self.places = places
        # nothing in it and never saved: it only follows the layer from device to device
        self.register_buffer("anchor", torch.empty(0, device=device), persistent=False)

    @property
    def movable(self) -> bool:
        """Whether `assign` has any effect."""
        return type(self).assign is not Offsets.assign

    def placement(self) -> Placement:
        """Where the windows lie now, differentiable in whatever the rule learns."""
        raise NotImplementedError

    def positions(self) -> Int[Tensor, "n g"]:
        """The integer positions that the rule stands for, multiples of the grid."""
        return self.placement().base

    def forward(self) -> Int[Tensor, "n g"]:
        return self.positions()

    def assign(self, positions: Int[Tensor, "n g"]) -> None:
        """Take over `positions` as far as the rule can; fixed rules keep their own (used by warm starts)."""

    def stored_bits(self) -> int:
        """Bits that the positions take in a file."""
        return 0

    def packed(self) -> dict[str, Tensor]:
        """The tensors that a file needs to give these positions back, `stored_bits` in all."""
        return {}

    def restored(self, stored: Mapping[str, Tensor]) -> "Offsets":
        """The hardened rule that `stored`, as given by `packed`, stands for. This one may be on the meta device."""
        return self

    def hardened(self) -> "Offsets":
        """This rule with all that only learning needs left out; fixed rules return themselves."""
        return self

    def observe(self, x: Tensor) -> None:
        """Look at the layer's input before its weight is sampled (rules with `watches_input` only)."""

    def forget(self) -> None:
        """Drop what was seen, after the weight has been used."""

    def extra_repr(self) -> str:
        p = self.places
        return f"{p.filters}x{p.groups} of {p.choices} positions, grid {p.grid}"


class LearnedOffsets(Offsets):
    """What learned rules share: the frozen state, kept in buffers so that it survives a checkpoint.

    Until `freeze` is called, `placement` follows the parameters; from then on, the integers of `table`.
    """

    learned = True
    table: Tensor
    frozen: Tensor

    def __init__(self, places: Places, start: Int[Tensor, "n g"]) -> None:
        super().__init__(places, start.device)
        self.register_buffer("table", start.to(torch.int32))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool, device=start.device))
        self.is_frozen = False

    def soft_placement(self) -> Placement:
        """The differentiable placement, before freezing."""
        raise NotImplementedError

    def hard_positions(self) -> Int[Tensor, "n g"]:
        """The integers nearest to what has been learned, before freezing."""
        raise NotImplementedError

    def rated(self) -> list[nn.Parameter]:
        """The parameters that learn at the spec's `rate`; any others go at that of the weights."""
        return list(self.parameters(recurse=False))

    def anneal(self, progress: float) -> None:
        """Called before each step while learning; `progress` goes from 0 (start) to 1 (about to freeze)."""

    def placement(self) -> Placement:
        return Placement(self.table.long()) if self.is_frozen else self.soft_placement()

    def positions(self) -> Int[Tensor, "n g"]:
        return self.table.long() if self.is_frozen else self.hard_positions()

    def freeze(self) -> None:
        """Round what has been learned to integers and stop learning it; calling it again changes nothing."""
        if not is_set(self.frozen):
            with torch.no_grad():
                self.table.copy_(self.hard_positions())
            self.frozen.fill_(True)
        self.is_frozen = True

    def train(self, mode: bool = True):
        """Switch modes; an average of models (EMA) that was given the buffers of a frozen one notices it here."""
        self.is_frozen = is_set(self.frozen)
        return super().train(mode)

    def stored_bits(self) -> int:
        return self.places.table_bits

    def packed(self) -> dict[str, Tensor]:
        return self.places.pack(self.table if self.table.is_meta else self.positions())

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        from autosample.sampling.rules.table import TableOffsets

        return TableOffsets(self.places, self.places.unpack(stored))

    def hardened(self) -> Offsets:
        from autosample.sampling.rules.table import TableOffsets

        return TableOffsets(self.places, self.positions())

    def _apply(self, fn, recurse: bool = True):
        """Positions stay float32 in half-precision models: bfloat16 cannot tell row 4000 from row 4016."""
        kept = {name: p.detach() for name, p in self._parameters.items() if p is not None}
        kept |= {name: b for name, b in self._buffers.items() if b is not None and b.is_floating_point()}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            now = getattr(self, name)
            if now.dtype in (torch.float16, torch.bfloat16):
                now.data, now.grad = before.to(now.device), None
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.is_frozen = is_set(self.frozen)


def is_set(flag: Tensor) -> bool:
    """The value of a flag kept in a buffer; on the meta device nothing is ever set."""
    return not flag.is_meta and bool(flag)


def start_positions(places: Places, spec: Spec, name: str, device: torch.device | None) -> Int[Tensor, "n g"]:
    """Where learned windows begin: as the strided rule places them, or at random."""
    if device is not None and torch.device(device).type == "meta":  # only its shape is of interest
        return torch.empty(places.filters, places.groups, dtype=torch.long, device=device)
    if spec.start == "random":
        seed = torch.tensor(layer_seed(spec.seed, name), device=device)
        return random_positions(seed, places.filters, places.groups, places.choices) * places.grid
    return strided_positions(places, device)


def strided_positions(places: Places, device: torch.device | None) -> Int[Tensor, "n g"]:
    """`o[n, g] = n·S` with the summary's whole length used: `⌊n·last/(N − 1)⌋`, on the grid.

    With `L = K + (N − 1)·S` this is WSNet's and FSNet's integer stride exactly. A table of a single filter (the
    channel offsets of the separable rule) is spaced along its groups instead.
    """
    count = places.filters if places.filters > 1 else places.groups
    line = torch.arange(count, device=device) * (places.choices - 1) // max(count - 1, 1) * places.grid
    shape = (-1, 1) if places.filters > 1 else (1, -1)
    return line.view(shape).expand(places.filters, places.groups)
