"""Parts of a data set: rows for training, validation and test, and the hold-out split."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autosample.data.files import shown
from autosample.errors import DataError


@dataclass
class Examples:
    """A whole data set with the rows of its parts.

    Args:
        x: examples (N, ...) as a tensor, or N files.
        y: labels, (N,), int64; or (N, number of classes), bool, if an example may have several.
        train, test: rows of these parts, (n,) int64.
        val: rows of an official validation part, or None if the set has none.
        groups: N names; examples of one group (for example cuts of one recording) stay together when rows are held out.
    """

    x: Tensor | list[str]
    y: Tensor
    train: Tensor
    test: Tensor
    val: Tensor | None = None
    groups: Sequence[Hashable] | None = None

    def check(self, class_names: Sequence[str], where: str) -> None:
        """Raise `DataError` unless there are test examples, and training examples of each class."""
        for part, rows in (("training", self.train), ("test", self.test)):
            if not len(rows):
                raise DataError(
                    f"{shown(where)} must have at least one {part} example, got none: check the folder's layout"
                )
        y = self.y[self.train]
        counts = y.sum(0) if y.ndim > 1 else torch.bincount(y, minlength=len(class_names))
        missing = [name for name, count in zip(class_names, counts.tolist(), strict=True) if not count]
        if missing:
            named = ", ".join(shown(name, 20) for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DataError(
                f"each class must have a training example, got none for {named} in {shown(where)}: add one or remove "
                "the class"
            )


def hold_out(
    labels: Tensor, fraction: float, seed: int, groups: Sequence[Hashable] | None = None
) -> tuple[Tensor, Tensor]:
    """Split rows in two, class by class.

    Of a class with n rows, about `fraction` × n are held out: at least one if n > 1, and at most n - 1. With `groups`,
    rows of one class and group stay on one side, and a class with a single group is not held out at all.

    Args:
        labels: labels, (N,) int64; or (N, C) bool: a row is then in the rarest of its classes.
        fraction: share to hold out, 0 <= fraction < 1; 0 holds out nothing.
        seed: seed of the choice, at least 0. The choice is the same on every machine and version.
        groups: N names, or None if each row is its own group.

    Returns:
        The rows that stay and the rows held out, both int64 in ascending order.

    Raises:
        DataError: `fraction` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise DataError(f"the held-out fraction must be in [0, 1), got {fraction}: 0.1 is usual")
    # NumPy never changes the numbers of RandomState, so the split stays the same with a later NumPy
    rng = np.random.RandomState(seed)
    y = labels.cpu().numpy()
    if y.ndim > 1:
        y = np.where(y, y.sum(0), len(y) + 1).argmin(1)
    held = np.zeros(len(y), dtype=bool)
    for label in np.unique(y) if fraction else []:
        rows = np.flatnonzero(y == label)
        members: dict[Hashable, list[int]] = {}
        for row in rows.tolist():
            members.setdefault(row if groups is None else groups[row], []).append(row)
        bundles = [bundle for _, bundle in sorted(members.items(), key=lambda item: item[1][0])]
        for bundle in _choose(bundles, max(1, round(fraction * len(rows))), rng):
            held[bundle] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def _choose(bundles: list[list[int]], target: int, rng: np.random.RandomState) -> list[list[int]]:
    """Random bundles with at most `target` rows in total; at least one bundle, but never all of them."""
    chosen, count = [], 0
    shuffled = [bundles[i] for i in rng.permutation(len(bundles))]
    for bundle in shuffled:
        if count + len(bundle) <= target and len(chosen) < len(bundles) - 1:
            chosen.append(bundle)
            count += len(bundle)
    if not chosen and len(bundles) > 1:
        chosen = [min(shuffled, key=len)]
    return chosen
