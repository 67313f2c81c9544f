"""Damaged images, sounds and tables: each is read, or refused in one line, within bounds of time and memory.

`AUTOSAMPLE_FUZZ_CASES` sets the number of cases (200). Case n is always the same, and
`python tests/fuzz/test_media.py FOLDER 10 11` runs case 10 alone. The cases run in a process of their own, so a crash
of a decoder is seen and named.
"""

import io
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

CASES = int(os.environ.get("AUTOSAMPLE_FUZZ_CASES", "200"))
SEED = 7
SECONDS = 3.0  # CPU time that one file may take
MEMORY = 2 * 2**30  # bytes that may be asked for, beyond those of the process: the largest image allowed has a third


@pytest.mark.slow
def test_damaged_media_are_read_or_refused(tmp_path):
    command = [sys.executable, __file__, str(tmp_path), "0", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60 + CASES, check=False)
    last = (tmp_path / "case").read_text() if (tmp_path / "case").exists() else "none"
    assert done.returncode == 0, f"crash {done.returncode} in case {last}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["faults"] == []
    assert found["read"] + found["refused"] == CASES
    assert found["read"] > CASES // 20
    assert found["refused"] > CASES // 5


def images():
    from PIL import Image

    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    grey, deep, real = colour[..., 0], colour[..., 0].astype(np.uint16) << 8, colour[..., 0].astype(np.float32) / 255
    exif = Image.Exif()
    exif[274] = 6
    palette = Image.fromarray(grey).convert("P")
    for pixels, kind, options in (
        *((p, kind, {}) for p in (colour, grey) for kind in ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "GIF")),
        *((colour, kind, {}) for kind in ("JPEG2000", "AVIF")),
        *((deep, kind, {}) for kind in ("PNG", "TIFF", "PPM", "JPEG2000")),
        *((real, "TIFF", {"compression": how}) for how in (None, "tiff_lzw")),
        *(
            (colour, "TIFF", {"compression": how, "exif": exif})
            for how in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")
        ),
        *((colour, kind, {"exif": exif}) for kind in ("PNG", "JPEG", "WEBP")),
        (palette, "PNG", {"transparency": bytes(range(256))}),
        (colour, "JPEG", {"progressive": True}),
        (grey, "GIF", {"save_all": True, "append_images": [Image.fromarray(255 - grey)] * 3}),
    ):
        file = io.BytesIO()
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(file, kind, **options)
        yield "image", file.getvalue()


def sounds():
    import soundfile

    wave = 0.1 * np.cumsum(np.random.default_rng(0).standard_normal((3000, 2)), axis=0) / 50
    for kind, subtype in (
        *(
            ("WAV", subtype)
            for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM")
        ),
        *(("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
        *(("AU", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("RF64", "PCM_16")),
    ):
        for channels in (1, 2):
            file = io.BytesIO()
            soundfile.write(file, wave[:, :channels], 48000 if subtype == "OPUS" else 44100, subtype, format=kind)
            yield "sound", file.getvalue()


def tables():
    yield (
        "table",
        b"\xef\xbb\xbfpath,label,split\r\n" + b"".join(b'a%d.wav,"dog, small",train\r\n' % i for i in range(20)),
    )
    yield "table", b"path,label\n" + b"".join(b"b%d.wav,caf\xc3\xa9 \n" % i for i in range(20))


def damaged(data, rng):
    """A copy with one to three faults."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        # faults in the first bytes, where the header is, are more likely
        at = int(len(data) * rng.random() ** 3)
        span = int(rng.integers(1, 9))
        match rng.integers(0, 7):
            case 0:
                data[at : at + span] = rng.bytes(span)
            case 1:
                data[at : at + span] = bytes([rng.choice([0, 0x7F, 0x80, 0xFF])]) * span
            case 2:
                del data[len(data) - at :]
            case 3:
                del data[at : at + span]
            case 4:
                data[at:at] = rng.bytes(span)
            case 5:
                data[at : at + 1] = bytes([(data[at : at + 1] or b"\0")[0] ^ 1 << int(rng.integers(8))])
            case 6:
                other = int(rng.integers(len(data) + 1))
                data[at : at + 4 * span] = data[other : other + 4 * span]
    return bytes(data)


def check(kind, path, rng):
    """Read a file. What comes out must be what the reader promises."""
    from autosample.data.clips import read_clip
    from autosample.data.image_files import open_image
    from autosample.data.tables import read_table

    if kind == "image":
        mode = ("RGB", "L")[rng.integers(2)]
        image = open_image(path, mode)
        pixels = np.asarray(image)
        assert (image.mode, pixels.dtype) == (mode, np.uint8)
        assert pixels.size == image.size[0] * image.size[1] * len(mode)
    elif kind == "sound":
        level = ("none", "peak", "rms")[rng.integers(3)]
        clip = read_clip(path, int(rng.choice([8000, 44100])), 2000, level)
        assert (clip.shape, clip.dtype) == ((2000,), np.float32)
        assert np.isfinite(clip).all()
        assert level != "peak" or np.abs(clip).max() <= 1.00001
    else:
        rows = read_table(path, ("path", "label"))
        assert all(row["path"] and row["label"] and row["label"] == row["label"].strip() for row in rows)


def run(folder, first, last):
    """Run the cases `first` .. `last` - 1, and count what came out."""
    from autosample.errors import DataError

    warnings.simplefilter("ignore")
    seeds = [*images(), *sounds(), *tables()]
    for kind, data in seeds:  # undamaged files are read
        check(kind, written(folder, data), np.random.default_rng(0))
    used = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmSize" in line)
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + MEMORY,) * 2)
    counts, faults, slowest = Counter(read=0, refused=0), [], 0.0
    for case in range(first, last):
        (folder / "case").write_text(str(case))
        rng = np.random.default_rng((SEED, case))
        kind, data = seeds[rng.integers(len(seeds))]
        path = written(folder, damaged(data, rng))
        start = time.process_time()
        try:
            check(kind, path, rng)
            counts["read"] += 1
        except DataError as error:
            counts["refused"] += 1
            counts[kind] += 1
            if "\n" in str(error) or len(str(error)) > 300 or isinstance(error.__cause__, MemoryError):
                faults.append(f"{case} {kind}: {error!r} from {error.__cause__!r}"[:1000])
        except Exception as error:
            faults.append(f"{case} {kind}: {error!r}"[:1000])
        spent = time.process_time() - start
        slowest = max(slowest, spent)
        if spent > SECONDS:
            faults.append(f"{case} {kind}: {spent:.1f} s")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({**counts, "slowest_s": round(slowest, 2), "peak_mib": most, "faults": faults}))


def written(folder, data):
    path = folder / "file"
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
