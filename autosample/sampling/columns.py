"""Which summary column an input channel reads: the second sampled dimension, `taps` layout only.

The plain rule is WSNet's `m mod Q` and needs no module. The others widen the summary: one copy of its columns per
window. That is smaller than the weight by the layer's ratio.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autosample.coding.exact import Exact
from autosample.coding.packing import bits_for, pack, unpack
from autosample.errors import DAMAGED, ArtifactError
from autosample.sampling.geometry import Geometry
from autosample.sampling.hashing import SEED_BITS, random_columns


class Columns(Exact):
    """Reads column `table()[g, q]` for the `q`-th channel of window `g`. Here nothing is stored.

    To add a selection, write a subclass and add a row to `COLUMNS`.
    """

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
        return 0

    def packed(self) -> dict[str, Tensor]:
        """The tensors that a file needs to restore the selection."""
        return {}

    def restored(self, stored: Mapping[str, Tensor]) -> "Columns":
        """The selection from `stored`, the tensors that `packed` returned."""
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
    """A selection stored as integers, at first `m mod Q`: that of files in which it was learned."""

    def __init__(self, windows: int, columns: int, seed: int = 0, device: torch.device | None = None) -> None:
        super().__init__(windows, columns)
        self.keep("chosen", self.fresh("chosen").to(device), bits_for(columns))

    def fresh(self, name: str) -> Tensor:
        return torch.arange(self.columns).repeat(self.windows, 1)

    def table(self) -> Int[Tensor, "g q"]:
        return self.kept("chosen")

    def stored_bits(self) -> int:
        return self.windows * self.columns * bits_for(self.columns)

    def packed(self) -> dict[str, Tensor]:
        return {"table": pack(self.table(), bits_for(self.columns))} if self.columns > 1 else {}

    def restored(self, stored: Mapping[str, Tensor]) -> Columns:
        """The selection from a file.

        Raises:
            ArtifactError: A column does not exist.
        """
        if self.columns > 1:
            chosen = unpack(stored["table"], bits_for(self.columns), self.windows * self.columns)
            if int(chosen.max()) >= self.columns:
                raise ArtifactError(f"stored columns must be below {self.columns}, got {int(chosen.max())}: {DAMAGED}")
            self.keep("chosen", chosen.view(self.windows, self.columns), bits_for(self.columns))
        return self


#: The class behind each name that a spec's `columns` can have; `tile` is `m mod Q` and needs none.
COLUMNS: dict[str, type[Columns] | None] = {"tile": None, "shuffle": ShuffledColumns, "table": TableColumns}


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
