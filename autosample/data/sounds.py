"""Batches of sounds that are read from their files when they are needed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autosample.data.resident import BatchPlan
from autosample.data.workers import PlannedBatches, Repaired, first_readable, stacked
from autosample.system.seeds import mixed_seed


class SoundBatches(PlannedBatches):
    """Batches of clips, each read from its file. Workers read, and the process that trains transforms, on its device.

    In training, a clip is a random part of its file, and the place of this part depends only on (seed, epoch, row), so
    the number of workers and ranks does not matter. Otherwise it is the middle.

    Args:
        paths: all N sounds of the data.
        y: labels, (N,) or (N, number of classes).
        read: called as `read(path, place=...)`, with a number from 0 to 1 or None: a clip, float32 (samples,).
        transform: called as `transform(x, generator)` on each batch (B, 1, samples), or None.
        plan, indices: as in `PlannedBatches`; indices are ascending.
        device: where batches are transformed.
        skip: let the next sound of the part take the place of one that cannot be read.
    """

    kind = "sounds"

    def __init__(
        self,
        paths: Sequence[str],
        y: Tensor,
        read: Callable[..., np.ndarray],
        transform: Callable[..., Tensor] | None,
        plan: BatchPlan,
        indices: Tensor,
        device: torch.device,
        skip: bool = False,
    ) -> None:
        super().__init__(plan, indices)
        # one array instead of a list of strings: reference counts would make forked workers copy the list's pages
        self.paths, self.y = np.array([os.fsencode(path) for path in paths]), y
        self.read, self.transform, self.device, self.skip = read, transform, device, skip

    def cut(self, rows: Tensor, epoch: int, batch: int) -> Any:
        bad: list[str] = []
        read = [
            first_readable(lambda row: self._clip(row, epoch), row, self.indices, self.skip, bad, self.kind)
            for row in rows.tolist()
        ]
        x = stacked([torch.from_numpy(clip) for clip, _ in read])[:, None]
        y = self.y[torch.tensor([row for _, row in read])]
        return Repaired(x, y, bad) if bad else (x, y)

    def finish(self, x: Tensor, epoch: int, batch: int) -> Tensor:
        x = x.to(self.device, non_blocking=True)
        if self.transform is None:
            return x
        seed = mixed_seed(self.plan.seed, epoch, batch, self.plan.rank)
        return self.transform(x, torch.Generator(x.device).manual_seed(seed))

    def _clip(self, row: int, epoch: int) -> np.ndarray:
        place = mixed_seed(self.plan.seed, epoch, row) / 2**63 if self.plan.shuffle else None
        return self.read(Path(os.fsdecode(self.paths[row])), place=place)
