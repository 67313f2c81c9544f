"""Augmentations and fixed transforms for whole batches, in plain torch, on the device of the batch.

Each is a callable `step(x, generator)`. `x` is a batch, `(B, C, H, W)` for images or `(B, C, T)` for audio;
`generator` is a `torch.Generator` on the device of `x`. All random numbers come from it, so the same batch with the
same generator state gives the same result. Each example of a batch gets its own random numbers.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from autosample.errors import DataError

Step = Callable[[Tensor, torch.Generator | None], Tensor]


def _uniform(x: Tensor, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    """One number per example from [low, high), shaped to broadcast against `x`."""
    draw = torch.rand(len(x), generator=generator, device=x.device)
    return (low + (high - low) * draw).view(-1, *[1] * (x.dim() - 1))


def _offsets(x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """One whole number per example from 0 .. count - 1, shape (B,)."""
    return torch.randint(count, (len(x),), generator=generator, device=x.device)


def _need(rule: str, ok: bool, got: object) -> None:
    if not ok:
        raise DataError(f"{rule}, got {got}")


class Compose:
    """Applies the given steps one after the other.

    Args:
        steps: callables `(x, generator) -> x`; `None` entries are left out.
    """

    def __init__(self, steps: Sequence[Step | None]) -> None:
        self.steps = tuple(step for step in steps if step is not None)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        for step in self.steps:
            x = step(x, generator)
        return x


class Normalize:
    """`(x - mean) / std` per channel, in float32. Integer images are divided by 255 first.

    Args:
        mean, std: one number per channel; images have the range 0 … 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        _need("std must be positive for each channel of mean", len(mean) == len(std) and min(std) > 0, (mean, std))
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        mean = torch.tensor(self.mean, device=x.device).view(shape)
        std = torch.tensor(self.std, device=x.device).view(shape)
        x = x.float() if x.is_floating_point() else x.float() / 255
        return (x - mean) / std


class Resize:
    """Resizes images to `size` × `size` pixels: bilinear, anti-aliased when shrinking. Needs a float batch."""

    def __init__(self, size: int) -> None:
        _need("size must be at least 1 pixel", size >= 1, size)
        self.size = size

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if x.shape[-2:] == (self.size, self.size):
            return x
        return F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False)


class RandomCropFlip:
    """Pads each image with zeros, cuts the original size at a random place, and mirrors half of the images.

    Works on integer and float images, `(B, C, H, W)` in and out. On raw (not yet normalised) pixels the padding is
    black, as usual for CIFAR.

    Args:
        padding: pixels added on each side; 0 for no random crop.
        flip: mirror each image left to right with probability 1/2.
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        _need("padding must be at least 0 pixels", padding >= 0, padding)
        self.padding, self.flip = padding, flip

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if self.padding:
            height, width = x.shape[-2:]
            top = _offsets(x, 2 * self.padding + 1, generator)
            left = _offsets(x, 2 * self.padding + 1, generator)
            # one strided view holds all possible crops; each image takes its own
            windows = F.pad(x, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
            x = windows[torch.arange(len(x), device=x.device), :, top, left]
        if self.flip:
            mirror = _offsets(x, 2, generator).bool().view(-1, 1, 1, 1)
            x = torch.where(mirror, x.flip(-1), x)
        return x


def _crop1d(x: Tensor, start: Tensor, length: int) -> Tensor:
    return x.unfold(-1, length, 1)[torch.arange(len(x), device=x.device), :, start]


class RandomShift1d:
    """Shifts each clip by up to `max_shift` samples in both directions, filled with silence. `(B, C, T)` in and out."""

    def __init__(self, max_shift: int) -> None:
        _need("max_shift must be at least 0 samples", max_shift >= 0, max_shift)
        self.max_shift = max_shift

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if not self.max_shift:
            return x
        start = _offsets(x, 2 * self.max_shift + 1, generator)
        return _crop1d(F.pad(x, [self.max_shift, self.max_shift]), start, x.shape[-1])


class RandomCrop1d:
    """Cuts `length` samples out of each clip at a random place: `(B, C, T)` to `(B, C, length)`.

    Raises:
        DataError: the clips are shorter than `length`.
    """

    def __init__(self, length: int) -> None:
        _need("length must be at least 1 sample", length >= 1, length)
        self.length = length

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        spare = x.shape[-1] - self.length
        _need(f"a crop of {self.length} samples needs clips at least that long", spare >= 0, f"{x.shape[-1]} samples")
        return _crop1d(x, _offsets(x, spare + 1, generator), self.length)


class CenterCrop1d(RandomCrop1d):
    """Cuts the middle `length` samples out of each clip: `RandomCrop1d` for evaluation."""

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        spare = x.shape[-1] - self.length
        _need(f"a crop of {self.length} samples needs clips at least that long", spare >= 0, f"{x.shape[-1]} samples")
        return x[..., spare // 2 : spare // 2 + self.length]


class RandomGain:
    """Makes each example louder or quieter by up to `db` decibels, uniformly in decibels. Needs a float batch."""

    def __init__(self, db: float) -> None:
        _need("db must be at least 0", db >= 0, db)
        self.db = db

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x * 10 ** (_uniform(x, -self.db, self.db, generator) / 20) if self.db else x


class AddNoise:
    """Adds white Gaussian noise to each example, at `level` times the RMS of that example. Needs a float batch."""

    def __init__(self, level: float) -> None:
        _need("level must be at least 0", level >= 0, level)
        self.level = level

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if not self.level:
            return x
        rms = x.square().mean(dim=tuple(range(1, x.dim())), keepdim=True).sqrt()
        return x + self.level * rms * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


class SpecMask:
    """Sets random bands and times of spectrograms to zero, their mean: SpecAugment (Park et al. 2019), without warping.

    `(B, C, bands, frames)` in and out. Needs a float batch.

    Args:
        bands, frames: largest width of a mask along each axis; a width is drawn from 0 to this number. 0 for no masks.
        count: number of masks along each axis.

    Raises:
        DataError: a number is out of range, or a mask may be wider than the spectrograms.
    """

    def __init__(self, bands: int, frames: int, count: int = 1) -> None:
        _need("bands and frames of masks must be at least 0", min(bands, frames) >= 0, (bands, frames))
        _need("count must be at least 1 mask", count >= 1, count)
        self.bands, self.frames, self.count = bands, frames, count

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        for axis, most in ((-2, self.bands), (-1, self.frames)):
            size = x.shape[axis]
            _need(f"masks must be at most as wide as the spectrograms, {size}", most <= size, most)
            for _ in range(self.count if most else 0):
                width = _offsets(x, most + 1, generator)
                # a whole number from 0 to size - width
                start = (torch.rand(len(x), generator=generator, device=x.device) * (size - width + 1)).long()
                place = torch.arange(size, device=x.device)
                hidden = (place >= start[:, None]) & (place < (start + width)[:, None])
                x = x.masked_fill(hidden.view(len(x), 1, *((size, 1) if axis == -2 else (1, size))), 0.0)
        return x
