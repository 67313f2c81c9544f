"""What else makes a trained dense net small: a rival changes its layers until it has a size, and the net trains on.

To add a rival, write a class with `check` and `shrink_` in a file of its own, and add a row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from autosample.experiments.rivals.low_rank import LowRank
from autosample.experiments.rivals.pruned import Pruned


class Rival(Protocol):
    """A way to make a trained dense net small."""

    def check(self) -> None:
        """Called before the dense net trains.

        Raises:
            MissingExtra: A package is not installed.
        """
        ...

    def shrink_(
        self,
        net: nn.Module,
        target: float,
        cost: Callable[[nn.Module], int],
        *,
        patterns: Mapping[str, Any],
        shape: Sequence[int],
    ) -> dict[str, Any]:
        """Change a dense net in place to plain torch layers that store the target, or nearly.

        Args:
            net: The dense net, with trained weights.
            target: Bytes of the whole net.
            cost: Counts the bytes that a net stores.
            patterns: `include` and `exclude`, as for `autosample.convert_`, where given.
            shape: Shape of one example, without the batch.

        Returns:
            What was chosen, as data for the record.

        Raises:
            ConfigError: The net cannot have this size; the message says what is possible.
        """
        ...


#: Rivals by the name that grids use.
RIVALS: dict[str, Rival] = {"low-rank": LowRank(), "pruned": Pruned()}
