"""Which summary column an input channel reads: the second sampled dimension, `taps` layout only.

The plain rule is WSNet's `m mod Q` and needs no module. The others widen the summary: one copy of its columns per
window. That is smaller than the weight by the layer's ratio.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.coding.exact import Exact
from autosample.coding.packing import bits_for, pack, unpack
from autosample.errors import DAMAGED, ArtifactError
from autosample.sampling.geometry import Geometry
from autosample.sampling.hashing import SEED_BITS, random_columns
from autosample.sampling.rules.learned import is_set


class Columns(Exact):
    """Reads column `table()[g, q]` for the `q`-th channel of window `g`.

    To add a selection, write a subclass and add a row to `COLUMNS`.
    """

    learned = False

    def __init__(self, windows: int, columns: int, seed: int = 0, device: torch.device | None = None) -> None:
        super().__init__()
        self.windows, self.columns = windows, columns

    def table(self) -> Int[Tensor, "g q"]:
        """The integer selection."""
        raise NotImplementedError

    def widen(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "gl q"]:
        """A summary for each window, one below the other: window `g` starts at row `g·L`."""
        chosen = summary[:, self.table().reshape(-1)].view(-1, self.windows, self.columns)
        return chosen.transpose(0, 1).reshape(-1, self.columns)

    def narrow(self, wide: Float[Tensor, "gl q"]) -> Float[Tensor, "l q"]:
        """The adjoint of `widen`."""
        rows = wide.view(self.windows, -1, self.columns).transpose(0, 1).reshape(-1, self.windows * self.columns)
        out = wide.new_zeros(rows.shape[0], self.columns)
        return out.index_add_(1, self.table().reshape(-1), rows)

    def stored_bits(self) -> int:
        """Bits that the selection takes in a file."""
        return self.windows * self.columns * bits_for(self.columns)

    def packed(self) -> dict[str, Tensor]:
        """The tensors that a file needs to restore the selection."""
        return {"table": pack(self.table(), bits_for(self.columns))} if self.columns > 1 else {}

    def restored(self, stored: Mapping[str, Tensor]) -> "Columns":
        """The hardened selection from `stored`, the tensors that `packed` returned.

        Raises:
            ArtifactError: A column does not exist.
        """
        count = self.windows * self.columns
        chosen = torch.zeros(count, dtype=torch.long)
        if self.columns > 1:
            chosen = unpack(stored["table"], bits_for(self.columns), count)
        if count and int(chosen.max()) >= self.columns:
            raise ArtifactError(f"stored columns must be below {self.columns}, got {int(chosen.max())}: {DAMAGED}")
        return TableColumns(chosen.view(self.windows, self.columns))

    def reset_parameters(self) -> None:
        """Start again, as a new selection does. Fixed ones have nothing to reset."""

    def hardened(self) -> "Columns":
        """The selection without the parts that only learning needs."""
        return self


class ShuffledColumns(Columns):
    """A seeded permutation per window, so repeated channels do not align. Only the seed is stored."""

    def __init__(self, windows: int, columns: int, seed: int = 0, device: torch.device | None = None) -> None:
        super().__init__(windows, columns)
        self.seeded_with = seed
        self.keep("seed", torch.tensor(seed, device=device), SEED_BITS)

    def fresh(self, name: str) -> Tensor:
        return torch.tensor(self.seeded_with)

    def table(self) -> Int[Tensor, "g q"]:
        return random_columns(self.kept("seed"), self.windows, self.columns)

    def stored_bits(self) -> int:
        return SEED_BITS

    def packed(self) -> dict[str, Tensor]:
        return {"seed": self.kept("seed")}

    def restored(self, stored: Mapping[str, Tensor]) -> Columns:
        self.keep("seed", stored["seed"], SEED_BITS)
        return self


class TableColumns(Columns):
    """A selection stored as integers."""

    def __init__(self, table: Int[Tensor, "g q"]) -> None:
        super().__init__(table.shape[0], table.shape[1])
        self.keep("chosen", table, bits_for(self.columns))

    def table(self) -> Int[Tensor, "g q"]:
        return self.kept("chosen")


class LearnedColumns(Columns):
    """Every channel chooses a column by a straight-through softmax, starting from `m mod Q`."""

    learned = True

    def __init__(self, windows: int, columns: int, seed: int = 0, device: torch.device | None = None) -> None:
        super().__init__(windows, columns)
        self.logits = nn.Parameter(torch.eye(columns, device=device).repeat(windows, 1, 1))
        self._thaw()

    def table(self) -> Int[Tensor, "g q"]:
        return self.kept("chosen") if self.is_frozen else self.logits.argmax(-1)

    def widen(self, summary: Float[Tensor, "l q"]) -> Float[Tensor, "gl q"]:
        if self.is_frozen:
            return super().widen(summary)
        soft = torch.softmax(self.logits, -1)
        hard = torch.nn.functional.one_hot(self.logits.argmax(-1), self.columns).to(soft.dtype)
        choice = hard + (soft - soft.detach())
        return torch.einsum("lp,gqp->glq", summary, choice.to(summary.dtype)).reshape(-1, self.columns)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.logits.copy_(torch.eye(self.columns, device=self.logits.device).expand_as(self.logits))
        self._thaw()

    def _thaw(self) -> None:
        # zero until they are frozen, as for learned offsets
        device = self.logits.device
        self.keep("chosen", torch.zeros(self.windows, self.columns, device=device), bits_for(self.columns))
        self.keep("frozen", torch.zeros((), device=device), 1)
        self.is_frozen = False

    def freeze(self) -> None:
        """Keep the present choice and stop learning it."""
        if not is_set(self.get_buffer("frozen_bits")):
            with torch.no_grad():
                self.keep("chosen", self.logits.argmax(-1), bits_for(self.columns))
            self.keep("frozen", torch.ones((), device=self.logits.device), 1)
        self.is_frozen = True

    def train(self, mode: bool = True):
        """Switch modes. A copy that received frozen buffers notices it here, as for offsets."""
        self.is_frozen = is_set(self.get_buffer("frozen_bits"))
        return super().train(mode)

    def hardened(self) -> Columns:
        return TableColumns(self.table())

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.is_frozen = is_set(self.get_buffer("frozen_bits"))
        if not self.is_frozen:
            self._thaw()  # version 0.1.0 kept the start here


#: The class behind each name that a spec's `columns` can have; `tile` is `m mod Q` and needs none.
COLUMNS: dict[str, type[Columns] | None] = {"tile": None, "shuffle": ShuffledColumns, "learned": LearnedColumns}


def build_columns(choice: str, geometry: Geometry, seed: int, device: torch.device | None) -> Columns | None:
    """The module that a spec's `columns` asks for; `None` if channels read `m mod Q`.

    Args:
        choice: The spec's `columns`, a key of `COLUMNS`.
        geometry: Geometry of the layer.
        seed: Seed for a random selection.
        device: Device for the tensors.
    """
    kind = COLUMNS[choice]
    if geometry.layout == "flat" or kind is None:
        return None
    return kind(geometry.windows, geometry.columns, seed, device)
