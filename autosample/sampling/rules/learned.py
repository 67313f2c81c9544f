"""What learned rules share: the frozen state, in buffers, so checkpoints keep it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.sampling.checks import Number, check_number, check_share
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.rules.table import TableOffsets, start_offsets
from autosample.sampling.windows import Placement

Start = Literal["strided", "random"]


@dataclass(frozen=True, kw_only=True)
class LearnedOptions(RuleOptions):
    """Settings of every rule that learns.

    Attributes:
        start: Initial offsets: those of the strided rule, or random ones.
        rate: Learning rate of offsets [rows, or scores of a choice, per Adam step]; `None` means that of the weights.
            Above about one row, offsets become chaotic.
        freeze_at: Share of the training after which offsets become integers and stay.
        afford: Largest share of a summary's bits that stored offsets may take. A layer that would need more uses random
            offsets, which cost nothing; so 0 means random everywhere. `None`: use fewer windows instead.
    """

    start: Start = "strided"
    rate: Number | None = None
    freeze_at: Number = 0.6
    afford: Number | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rate", self.rate, above=0.0, fix="0.2 is usual with Adam")
        check_number("afford", self.afford, least=0.0, fix="0.1 lets offsets take a tenth of a summary's bits")
        check_share("freeze_at", self.freeze_at, fix="0.6 is usual")


class LearnedOffsets(Offsets):
    """A rule that learns. `placement` follows the parameters until `freeze` is called, then the integers found then.

    A subclass defines `soft_placement`, `hard_offsets` and `assign`.
    """

    Options: ClassVar[type[RuleOptions]] = LearnedOptions
    learned = True
    options: LearnedOptions

    def __init__(
        self,
        lattice: Lattice,
        options: LearnedOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, in_channels=in_channels, device=device)
        self._thaw()

    @property
    def table(self) -> Int[Tensor, "n g"]:
        """The integer offsets: those that are frozen, or else those that learning starts from."""
        return self.kept("table") if self.is_frozen else self.start()

    def start(self) -> Int[Tensor, "n g"]:
        """The offsets that learning starts from."""
        return start_offsets(self.lattice, self.options.start, self.seeded_with, self.anchor.device)

    def _thaw(self) -> None:
        # zero until they are frozen: an average of models then becomes what the model holds
        device = self.anchor.device
        self.keep("table", torch.zeros(self.lattice.filters, self.lattice.windows, device=device), self.lattice.width)
        self.keep("frozen", torch.zeros((), device=device), 1)
        self.is_frozen = False

    def reset_parameters(self) -> None:
        self._thaw()
        self.anneal(0.0)
        self.assign(self.start())

    def soft_placement(self) -> Placement:
        """The differentiable placement, before freezing."""
        raise NotImplementedError

    def hard_offsets(self) -> Int[Tensor, "n g"]:
        """The integers nearest to the learned offsets, before freezing."""
        raise NotImplementedError

    def soft_offsets(self) -> Float[Tensor, "n g"]:
        """The offsets as they are learned now, real-valued if the rule has such [rows]."""
        return self.hard_offsets().float()

    def trace(self) -> Tensor | None:
        return None if self.is_frozen else self.soft_offsets()

    def speed(self, rate: float) -> float:
        """The most that a step of Adam at this rate moves an offset [rows]; 0 if there is no such bound."""
        return 0.0

    def in_old_unit(self, state: Collection[str]) -> bool:
        """Whether a state with these names is of an earlier version, which learned in another unit."""
        return False

    def rated(self) -> list[nn.Parameter]:
        """The parameters that learn at the option `rate`; any others learn like the weights."""
        return list(self.parameters(recurse=False))

    def anneal(self, progress: float) -> None:
        """Called before each step while learning; `progress` goes from 0 (start) to 1 (about to freeze)."""

    def placement(self) -> Placement:
        return Placement(self.kept("table")) if self.is_frozen else self.soft_placement()

    def forward(self) -> Int[Tensor, "n g"]:
        return self.kept("table") if self.is_frozen else self.hard_offsets()

    def freeze(self) -> None:
        """Round the learned offsets to integers and stop learning them; a second call changes nothing."""
        if not is_set(self.get_buffer("frozen_bits")):
            with torch.no_grad():
                self.keep("table", self.hard_offsets(), self.lattice.width)
            self.keep("frozen", torch.ones((), device=self.anchor.device), 1)
        self.is_frozen = True

    def train(self, mode: bool = True):
        """Switch modes. An average of models (EMA) that received the buffers of a frozen model notices it here."""
        self.is_frozen = is_set(self.get_buffer("frozen_bits"))
        return super().train(mode)

    def stored_bits(self) -> int:
        return self.lattice.table_bits

    def packed(self) -> dict[str, Tensor]:
        return self.lattice.pack(self.lattice.steps(self.kept("table") if self.anchor.is_meta else self()))

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        return TableOffsets(self.lattice, self.lattice.unpack(stored))

    def hardened(self) -> Offsets:
        return TableOffsets(self.lattice, self())

    def _apply(self, fn, recurse: bool = True):
        """Learned offsets stay float32 in half-precision models: bfloat16 cannot distinguish row 4000 from row 4016."""
        kept = []
        for part in self.modules():
            named = {**part._parameters, **part._buffers}
            kept += [(part, name, t.detach()) for name, t in named.items() if t is not None and t.is_floating_point()]
        super()._apply(fn, recurse)
        for part, name, before in kept:
            now = getattr(part, name)
            if now.dtype in (torch.float16, torch.bfloat16):
                now.data, now.grad = before.to(now.device), None
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.is_frozen = is_set(self.get_buffer("frozen_bits"))
        if not self.is_frozen:
            self._thaw()  # version 0.1.0 kept the start here


def is_set(flag: Tensor) -> bool:
    """The value of a flag kept in a buffer; on the meta device no flag is ever set."""
    return not flag.is_meta and bool(flag)
