"""Reading image files as 8-bit images. Training and `predict` share this decoder."""

import contextlib
import io
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from autosample.data.files import DEFAULT, Limits, reason, require_file, shown
from autosample.errors import DataError

# some others of Pillow's formats start programs or hold no pixels of their own
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "PPM", "WEBP", "GIF", "JPEG2000", "AVIF")
# a longer strip would become huge when its short side is scaled to the model's
_LONGEST = 1000
# files up to this size are read at once [bytes]
_SMALL = 4 << 20
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF


class _Bounded(io.BufferedReader):
    """A file whose `read` asks for no more memory than there are bytes. Damaged headers ask for gigabytes."""

    def __init__(self, path: str | Path, length: int) -> None:
        super().__init__(io.FileIO(path))
        self.length = length

    def read(self, size: int | None = -1) -> bytes:
        return super().read(-1 if size is None or size < 0 else min(size, max(0, self.length - self.tell())))


def open_image(path: str | Path, mode: str = "RGB", limits: Limits = DEFAULT, upright: bool = True) -> Image.Image:
    """The image in `path` with 8 bits per channel.

    16 bits become 8, and float pixels from 0 to 1 become 0 to 255. The image is turned as its EXIF data say, as viewers
    do. Transparency is ignored. Of an animation or a file of several pages, the first is read.

    Args:
        path: file in one of the formats JPEG, PNG, TIFF, BMP, PPM, WebP, GIF, JPEG 2000 and AVIF.
        mode: "RGB" or "L" (grey).
        limits: what the file may hold.
        upright: turn the image as its EXIF data say.

    Raises:
        DataError: the image cannot be read, is larger than `limits`, or its pixels have no known range.
    """
    length = require_file(path, limits.max_bytes)
    # by its path, Pillow would map some files into memory, and scramble TIFFs that must be turned
    with _Bounded(path, length) as raw:
        # Pillow reads a few bytes at a time
        whole = io.BytesIO(raw.read()) if length <= _SMALL else raw
        return decode_image(whole, path, mode, limits, upright)


def decode_image(
    raw: IO[bytes], name: str | Path, mode: str = "RGB", limits: Limits = DEFAULT, upright: bool = True
) -> Image.Image:
    """The same for an open file, such as one inside an archive; messages call it `name`."""
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow has a limit too; ours may be higher
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.max_pixels)
    try:
        with Image.open(raw, formats=_FORMATS) as file:
            _check_size(file.size, name, limits)
            file.load()
            with contextlib.suppress(Exception):  # damaged EXIF data say nothing about the pixels
                if upright:
                    ImageOps.exif_transpose(file, in_place=True)
            return _eight_bits(file, name, mode)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, limits, "more") from error
    except UnidentifiedImageError as error:
        raise _unreadable(name, "unknown format, or colours as floats") from error
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise _unreadable(name, reason(error)) from error


def _unreadable(path: str | Path, why: str) -> DataError:
    return DataError(f"{shown(path)}: not a readable image ({why}); replace the file or remove it")


def _too_large(path: str | Path, limits: Limits, got: str) -> DataError:
    return DataError(
        f"{shown(path)}: an image may have {limits.max_pixels:,} pixels, got {got}: make it smaller, or pass a larger "
        "max_pixels"
    )


def _check_size(size: tuple[int, int], path: str | Path, limits: Limits) -> None:
    if size[0] * size[1] > limits.max_pixels:
        raise _too_large(path, limits, f"{size[0]:,}×{size[1]:,}")
    if max(size) > _LONGEST * min(size):
        raise DataError(
            f"{shown(path)}: an image may be {_LONGEST} times as long as wide, got {size[0]:,}×{size[1]:,}: cut it"
        )


def _eight_bits(image: Image.Image, path: str | Path, mode: str) -> Image.Image:
    """The image in `mode`. Pillow alone would cut off larger values."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        pixels = _from_floats(np.asarray(image), path)
    elif image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        bits = tags.get(_BITS, (16,))[0]
        pixels = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    elif image.mode == "I":
        raise DataError(
            f"{shown(path)}: pixels must be 8- or 16-bit unsigned numbers or floats, got larger or signed ones, whose "
            "range is not known: save it with 8 or 16 bits"
        )
    else:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # Pillow warns otherwise
        return image if image.mode == mode else image.convert(mode)
    # Pillow leaves these kinds of TIFF as they are if 0 means white
    return Image.fromarray(255 - pixels if tags.get(_PHOTOMETRIC) == 0 else pixels).convert(mode)


def _from_floats(pixels: np.ndarray, path: str | Path) -> np.ndarray:
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 1:
        raise DataError(
            f"{shown(path)}: float pixels must be from 0 to 1, got {low:.4g} to {high:.4g}: scale them, or save the "
            "image with 8 or 16 bits"
        )
    return np.rint(pixels * 255).astype(np.uint8)
