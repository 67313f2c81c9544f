"""Pixels as they come out of files: depths, ranges, transparency, orientation, and what is refused before decoding."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from autosample.data import ImageFolder
from autosample.data.files import Limits
from autosample.data.image_files import open_image
from autosample.data.inputs import read_input
from autosample.errors import DataError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = (RAMP.astype(np.uint16) << 8) + 77


def save(folder, pixels, suffix, **options):
    path = folder / f"image{suffix}"
    Image.fromarray(pixels).save(path, **options)
    return path


def grey(path, **options):
    return np.asarray(open_image(path, "L", **options))


def refused(path, message, **options):
    with pytest.raises(DataError, match=message) as caught:
        open_image(path, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
def test_sixteen_bits_keep_their_range(tmp_path, suffix):
    path = save(tmp_path, DEEP, suffix)
    assert np.array_equal(grey(path), RAMP)
    assert np.array_equal(np.asarray(open_image(path)), np.repeat(RAMP[..., None], 3, 2))


def test_floats_from_0_to_1_keep_their_range(tmp_path):
    path = save(tmp_path, np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16), ".tif")
    assert np.array_equal(grey(path), RAMP)
    assert np.array_equal(np.asarray(open_image(path))[..., 2], RAMP)


@pytest.mark.parametrize("odd", [255.0, -0.01, np.nan, np.inf])
def test_other_floats_are_refused(tmp_path, odd):
    pixels = np.full((4, 4), 0.5, dtype=np.float32)
    pixels[1, 1] = odd
    refused(save(tmp_path, pixels, ".tif"), r"image\.tif: float pixels must be from 0 to 1, got ")


def test_32_bit_integers_are_refused(tmp_path):
    refused(save(tmp_path, RAMP.astype(np.int32), ".tif"), "pixels must be 8- or 16-bit")


def tiff(folder, pixels, bits, photometric):
    """A TIFF without compression, written by hand."""
    data = pixels.astype("<u2").tobytes()
    if bits == 12:
        flat = pixels.ravel().astype(int)
        data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in flat.reshape(-1, 2).tolist())
    height, width = pixels.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))]]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path = folder / "hand.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)
    # move the directory behind the pixels, which start at byte 8
    return path


def test_12_bits_and_tiffs_in_which_0_is_white(tmp_path):
    assert np.array_equal(grey(tiff(tmp_path, RAMP.astype(int) * 16 + 5, 12, 1)), RAMP)
    assert np.array_equal(grey(tiff(tmp_path, DEEP, 16, 0)), 255 - RAMP)
    assert np.array_equal(grey(tiff(tmp_path, DEEP, 16, 1)), RAMP)


def test_transparency_is_ignored_without_a_warning(tmp_path):
    image = Image.fromarray(RAMP).convert("P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    want = np.stack([RAMP, 255 - RAMP, np.full_like(RAMP, 7)], 2)
    assert np.array_equal(np.asarray(open_image(tmp_path / "p.png")), want)
    Image.fromarray(np.dstack([want, RAMP])).save(tmp_path / "rgba.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "rgba.png")), want)


def test_cmyk_black_and_white_and_animations(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "c.jpg")
    assert np.abs(np.asarray(open_image(tmp_path / "c.jpg")).astype(int) - (0, 255, 255)).max() <= 2
    Image.fromarray(RAMP > 100).save(tmp_path / "1.png")
    assert np.array_equal(grey(tmp_path / "1.png"), np.where(RAMP > 100, 255, 0))
    frames = [Image.new("L", (8, 8), level) for level in (50, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert set(grey(tmp_path / "a.gif").ravel().tolist()) == {50}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_images_are_turned_as_exif_says(tmp_path, suffix, orientation, turn):
    pixels = np.zeros((8, 16), dtype=np.uint8)
    pixels[:, 8:] = 255
    exif = Image.Exif()
    exif[TiffImagePlugin.ExifTags.Base.Orientation] = orientation
    path = save(tmp_path, pixels, suffix, exif=exif)
    assert np.abs(grey(path).astype(int) - np.rot90(pixels, turn)).max() <= 3


def png(width, height):
    """A PNG that says it is large, with no pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_limits_come_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # is raised below
    path = tmp_path / "a.png"
    for size, message in (
        ((60_000, 60_000), "may have 89,478,485 pixels, got more"),
        ((10_000, 10_000), "may have 89,478,485 pixels, got more"),
        ((20_000, 2), "1000 times as long as wide, got 20,000×2"),
    ):
        path.write_bytes(png(*size))
        refused(path, message)
    path.write_bytes(png(20_000, 20_000))
    refused(path, "not a readable image", limits=Limits(max_pixels=10**9))
    small = save(tmp_path, RAMP, ".png")
    refused(small, "may have 255 pixels, got 16×16: .* max_pixels", limits=Limits(max_pixels=255))
    refused(small, f"may have 20 bytes, got {small.stat().st_size}", limits=Limits(max_bytes=20))
    assert open_image(small, limits=Limits(max_pixels=256, max_bytes=10**6)).size == (16, 16)
    for name in ("max_pixels", "max_seconds", "max_bytes"):
        with pytest.raises(DataError, match=f"{name} must be above 0, got 0"):
            Limits(**{name: 0})


def test_a_header_does_not_set_the_memory(tmp_path):
    path = save(tmp_path, RAMP, ".jp2")
    data = bytearray(path.read_bytes())
    at = data.index(b"jp2h")
    data[at - 4 : at] = b"\xff\xff\xff\x00"  # the box of the header has 4 GiB
    path.write_bytes(data)
    tracemalloc.start()
    refused(path, "not a readable image")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_what_is_not_an_image_file(tmp_path):
    path = tmp_path / "x.png"
    refused(path, r"x\.png: not a readable file, .*No such file")
    path.write_bytes(b"")
    refused(path, "an empty file")
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # Pillow would start Ghostscript
    refused(path, r"not a readable image \(unknown format")
    whole = io.BytesIO()
    Image.fromarray(RAMP).save(whole, "PNG")
    path.write_bytes(whole.getvalue()[:-40])
    refused(path, "not a readable image")
    path.unlink()
    os.mkfifo(path)
    refused(path, "a pipe")
    refused(tmp_path, "a folder")
    refused("/dev/zero", "a device")
    refused(tmp_path / ("x" * 2000 + "\n.png"), "File name too long")


def test_training_and_prediction_see_the_same_image(tmp_path):
    """A set of 16-bit images: what `predict` makes of a file is what the test part holds."""
    for part in ("train", "val"):
        for name, shift in (("ant", 0), ("bee", 1)):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(np.tile(DEEP >> shift, (2, 3))).save(tmp_path / part / name / "1.png")
    first = sorted((tmp_path / "val").glob("*/*.png"))[0]
    for resident, atol in ((False, 0), (True, 1 / 255 / 0.22)):
        data = ImageFolder(str(tmp_path), image_size=16, resident=resident, padding=0, num_workers=0)
        x, _ = next(iter(data.test_dataloader()))
        made = read_input(first, data.preprocessing)
        assert np.abs((made - x[0]).numpy()).max() <= atol
        assert float(made.max()) > 1  # the images are bright
