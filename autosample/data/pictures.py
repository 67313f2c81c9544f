"""Pictures by their number, in folders, tar files or a set of Hugging Face, and batches of them."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autosample.data.files import DEFAULT, Limits, reason, shown
from autosample.data.image_files import decode_image, open_image
from autosample.data.resident import BatchPlan
from autosample.data.workers import PlannedBatches, Repaired, first_readable, own_chance, stacked
from autosample.errors import DataError

# bytes of the header before a file in a tar, and of the name that it begins with
_HEADER, _NAME = 512, 100


class Source(Protocol):
    """Pictures by their number. The pixels are timm's: a picture is not turned as its EXIF data say."""

    labels: Tensor  #: (N,), int64

    def image(self, number: int, limits: Limits) -> Image.Image:
        """Picture `number` in RGB; a `DataError` if it cannot be read."""
        ...


class Files:
    """Pictures in files of their own.

    Args:
        paths: the N files.
        labels: their labels, (N,) int64.
    """

    def __init__(self, paths: Sequence[str], labels: Tensor) -> None:
        # one array instead of a list of strings: reference counts would make forked workers copy the list's pages
        self.paths, self.labels = np.array([os.fsencode(path) for path in paths]), labels

    def image(self, number: int, limits: Limits) -> Image.Image:
        return open_image(os.fsdecode(self.paths[number]), limits=limits, upright=False)


class Packed:
    """Pictures in tar files. A worker opens a file anew for each, so that none moves another's place in it.

    Args:
        paths: the tar files.
        places: for each of N pictures the number of its file, where it begins, and its length [bytes], (N, 3) int64.
        labels: their labels, (N,) int64.
        names: what messages call the pictures; None for their names in the headers before them.
    """

    def __init__(
        self, paths: Sequence[Path], places: np.ndarray, labels: Tensor, names: Sequence[str] | None = None
    ) -> None:
        self.paths, self.places, self.labels = list(paths), places, labels
        self.names = None if names is None else np.array([os.fsencode(name) for name in names])

    def image(self, number: int, limits: Limits) -> Image.Image:
        which, start, size = self.places[number].tolist()
        path = self.paths[which]
        try:
            with path.open("rb") as file:
                file.seek(start - _HEADER)
                header = file.read(_HEADER)
                inner = header[:_NAME].rstrip(b"\0") if self.names is None else self.names[number]
                return _decoded(file, f"{path.name}/{os.fsdecode(inner)}", size, limits)
        except OSError as error:
            raise DataError(f"{shown(path)}: not readable ({reason(error)}): check the disk") from error


class Read:
    """Pictures that a reader of timm finds.

    Args:
        reader: `reader[i]` is an open file and a label.
        labels: the labels, (N,) int64.
    """

    def __init__(self, reader: Any, labels: Tensor) -> None:
        self.reader, self.labels = reader, labels

    def image(self, number: int, limits: Limits) -> Image.Image:
        name = f"picture {number}"
        try:
            with self.reader[number][0] as file:
                return _decoded(file, self.reader.filename(number) or name, limits.max_bytes + 1, limits)
        except DataError:
            raise
        except Exception as error:  # the set's own package raises many types
            raise DataError(f"{name} of the set cannot be read ({reason(error)}): download it again") from error


def _decoded(file: IO[bytes], name: str, size: int, limits: Limits) -> Image.Image:
    """The picture in the next `size` bytes, or fewer, of a file."""
    data = file.read(min(size, limits.max_bytes + 1))
    if len(data) > limits.max_bytes:
        raise DataError(f"{shown(name)}: a file may have {limits.max_bytes:,} bytes, got more: pass a larger max_bytes")
    return decode_image(io.BytesIO(data), name, limits=limits, upright=False)


class Joined:
    """The pictures of several sources, one after the other.

    Args:
        sources: the parts of a set.
    """

    def __init__(self, *sources: Source) -> None:
        self.sources = sources
        self.labels = torch.cat([source.labels for source in sources])
        self._starts = np.cumsum([0] + [len(source.labels) for source in sources])

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, number: int, limits: Limits) -> Image.Image:
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.sources[part].image(number - int(self._starts[part]), limits)


class PictureBatches(PlannedBatches):
    """Batches of pictures. Each is decoded and transformed alone.

    The random numbers of a picture's transform depend only on (seed, epoch, number, copy), so the number of workers and
    ranks does not matter.

    Args:
        pictures: all N pictures of the data.
        transform: makes a float tensor (C, H, W) from a PIL image.
        plan: which pictures are in which batch.
        indices: numbers of the pictures that belong to this part, (n,) int64, ascending.
        skip: let the next picture of the part take the place of one that cannot be read, as timm does. Batches keep
            their sizes, so no rank waits for another.
        limits: what a picture may hold.
    """

    kind = "pictures"

    def __init__(
        self,
        pictures: Joined,
        transform: Callable[[Any], Tensor],
        plan: BatchPlan,
        indices: Tensor,
        skip: bool = False,
        limits: Limits = DEFAULT,
    ) -> None:
        copies = [indices + copy * len(pictures) for copy in range(plan.repeats)]
        super().__init__(plan, torch.cat(copies))
        self.pictures, self.transform, self.part = pictures, transform, indices
        self.skip, self.limits = skip, limits

    def cut(self, rows: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        read, bad = [], []
        with own_chance() as seed:
            for row in rows.tolist():
                image, label = self._read(row % len(self.pictures), bad)
                seed(self.plan.seed, epoch, row)
                read.append((self.transform(image), label))
        x, y = stacked([x for x, _ in read]), torch.tensor([y for _, y in read])
        return Repaired(x, y, bad) if bad else (x, y)  # pyright: ignore[reportReturnType] - the loader unpacks it

    def _read(self, number: int, bad: list[str]) -> tuple[Image.Image, int]:
        """A picture, or the first readable one behind it, and its label; what is wrong with others goes into `bad`."""
        image, number = first_readable(self._image, number, self.part, self.skip, bad, self.kind)
        return image, int(self.pictures.labels[number])

    def _image(self, number: int) -> Image.Image:
        return self.pictures.image(number, self.limits)
