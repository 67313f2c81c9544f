"""Reading audio files as float32 clips of one length and sample rate."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from autosample.data.cache import cached_array, file_stamp, in_threads
from autosample.data.files import DEFAULT, Limits, is_folder, reason, require_file, shown
from autosample.data.listing import scan
from autosample.errors import DataError
from autosample.system.extras import require

Loudness = Literal["none", "peak", "rms"]
RMS_LEVEL = 0.1  # -20 dBFS leaves headroom for peaks
_BLOCK = 2**20  # values decoded at once
_UNKNOWN = 2**60  # more frames than this: libsndfile does not know
_MARGIN = 500  # samples that soxr's filter needs on each side, at the lower rate; more than enough
#: Suffixes of sounds.
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")


def read_clip(
    path: Path,
    sample_rate: int,
    samples: int,
    normalize: Loudness = "none",
    limits: Limits = DEFAULT,
    place: float | None = None,
) -> np.ndarray:
    """One audio file as a mono clip, float32 (samples,).

    Channels are averaged. Files with another rate are resampled by soxr (HQ). Longer files keep a part, and only that
    is read (of an MP3, all before it too); shorter ones get silence on both sides.

    Args:
        path: a file in any format that libsndfile reads.
        sample_rate: sample rate of the clip [Hz].
        samples: length of the clip [samples].
        normalize: "peak" scales the largest absolute value to 1; "rms" scales the RMS over the file's own samples to
            0.1; "none" keeps the level. Silence stays silence.
        limits: what the file may hold.
        place: which part of a longer file: from 0, its beginning, to 1, its end; None for the middle.

    Raises:
        DataError: the file is missing, unreadable, empty or larger than `limits`, or holds values that are not finite.
    """
    require("train", "soundfile", "soxr")
    require_file(path, limits.max_bytes)
    try:
        mono, power = _part(path, sample_rate, samples, limits, place)
    except DataError:
        raise
    except Exception as error:  # libsndfile and soxr raise many types for damaged files
        raise DataError(
            f"{shown(path)}: not a readable audio file ({reason(error)}); replace it or remove it"
        ) from error
    if normalize == "none":
        with np.errstate(over="ignore"):
            mono = np.ldexp(mono, power)
        if not np.isfinite(mono).all():
            raise DataError(f'{shown(path)}: samples are too large to resample, got about 2^{power}: use "peak"')
    clip = np.zeros(samples, dtype=np.float32)
    before = (samples - len(mono)) // 2
    clip[before : before + len(mono)] = mono * _level(mono, normalize)
    return clip


def _part(path: Path, sample_rate: int, samples: int, limits: Limits, place: float | None) -> tuple[np.ndarray, int]:
    """A part of a file at `sample_rate`, at most `samples` long; to be multiplied by two to a returned power."""
    import soxr

    rate, frames = _length(path, limits)
    start, count = _window(frames, rate, sample_rate, samples, place)
    with _opened(path) as file:
        file.seek(start) if file.seekable() else _count(file, start)
        parts = [wave.mean(axis=1, dtype=np.float64) for wave in _blocks(file, count)]
    mono = np.concatenate([np.zeros(0), *parts]).astype(np.float32)
    if len(mono) < count and start:
        raise DataError(f"{shown(path)}: the file ends before the {frames:,} samples that its header names; replace it")
    if not np.isfinite(mono).all():
        raise DataError(f"{shown(path)}: samples must be finite numbers, got NaN or infinity; replace the file")
    mono, power = _scaled(mono)
    frames = frames if len(mono) == count else len(mono)
    length = int(frames * sample_rate / rate + 0.5)  # as soxr rounds it
    if not length:
        raise DataError(f"{shown(path)}: an audio file must have samples, got none; replace it or remove it")
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    skip = _first(length - samples, place) - start * sample_rate // rate
    mono, more = _scaled(mono[skip : skip + samples])
    return mono, power + more


def _length(path: Path, limits: Limits) -> tuple[int, int]:
    """Sample rate [Hz] and number of samples of a file."""
    with _opened(path) as file:
        rate, frames = file.samplerate, file.frames
        if frames > _UNKNOWN:
            raise DataError(f"{shown(path)}: a header must say how long the sound is, got none; write the file again")
        if frames > limits.max_seconds * rate:
            raise DataError(
                f"{shown(path)}: a sound may last {limits.max_seconds:,g} s, got {frames / rate:,.0f} s: cut it, or "
                "pass a larger max_seconds"
            )
        if not file.seekable():  # the length of an MP3 is often just estimated from its size
            frames = _count(file, frames)
    return rate, frames


def _opened(path: Path) -> Any:
    import soundfile

    # names that are not UTF-8 must be bytes
    file: Any = soundfile.SoundFile(cast(Any, os.fsencode(path) if os.name == "posix" else path))
    if file.format == "MP3":
        file.seekable = lambda: False  # soundfile seeks after each read, by a table in the file that may be wrong
    return file


def _blocks(file: Any, count: int) -> Iterator[np.ndarray]:
    """At most `count` frames of an open file, in parts (n, channels). A header may promise far more than there is."""
    block = max(1, _BLOCK // file.channels)
    while count > 0:
        wave = file.read(min(block, count), dtype="float32", always_2d=True)
        if not len(wave):
            break
        yield wave
        count -= len(wave)


def _window(frames: int, rate: int, sample_rate: int, samples: int, place: float | None) -> tuple[int, int]:
    """First frame and number of frames to read for a part of `samples` at `sample_rate`."""
    if rate == sample_rate:
        return _first(frames - samples, place), min(frames, samples)
    first = _first(int(frames * sample_rate / rate + 0.5) - samples, place)
    margin = math.ceil(_MARGIN * max(1, sample_rate / rate))
    # start where a sample of the resampled file lies exactly on one of the file
    common = math.gcd(rate, sample_rate)
    start = max(0, first - margin) // (sample_rate // common) * (rate // common)
    return start, min(frames, math.ceil((first + samples + margin) * rate / sample_rate)) - start


def _first(spare: int, place: float | None) -> int:
    """Where a part begins that leaves `spare` samples out."""
    spare = max(0, spare)
    return spare // 2 if place is None else min(int(place * (spare + 1)), spare)


def _count(file: Any, most: int) -> int:
    """Decode at most this many frames, and count them."""
    return sum(len(wave) for wave in _blocks(file, most))


def _scaled(mono: np.ndarray) -> tuple[np.ndarray, int]:
    """Samples of ordinary size, and the power of two that was taken out, so that no later sum overflows or vanishes."""
    peak = float(np.abs(mono).max(initial=0.0))
    power = 0 if peak == 0 or 2.0**-40 < peak < 2.0**40 else math.frexp(peak)[1]
    return (np.ldexp(mono, -power) if power else mono), power


def _level(mono: np.ndarray, normalize: Loudness) -> float:
    """The factor that brings `mono` to its level; 1 for silence."""
    if normalize == "none" or not len(mono):
        return 1.0
    if normalize == "peak":
        now, target = float(np.abs(mono).max()), 1.0
    else:
        now, target = float(np.sqrt(np.mean(np.square(mono, dtype=np.float64)))), RMS_LEVEL
    return target / now if now > 0 else 1.0


def read_clips(
    paths: Sequence[Path],
    root: Path,
    cache: Path | None,
    sample_rate: int,
    samples: int,
    normalize: Loudness,
    limits: Limits = DEFAULT,
    skip: bool = False,
) -> np.ndarray:
    """Read all `paths` with `read_clip`: float32 (N, 1, samples). A valid cache in the folder `cache` is used.

    With `skip`, clips that cannot be read are NaN.
    """

    def fill(array: np.ndarray) -> None:
        def one(i: int) -> None:
            try:
                array[i, 0] = read_clip(paths[i], sample_rate, samples, normalize, limits)
            except DataError:
                if not skip:
                    raise
                array[i] = np.nan

        in_threads(one, len(paths), "decoding audio")

    key = {"files": file_stamp(paths, root), "rate": sample_rate, "samples": samples, "normalize": normalize}
    key |= {"skip": [limits.max_seconds, limits.max_bytes]} if skip else {}
    name = f"audio-{len(paths)}-{sample_rate}-{samples}-{normalize}"
    return cached_array(cache, name, key, (len(paths), 1, samples), "float32", fill)


def find_files(listed: Sequence[Path], source: str) -> list[Path]:
    """The `listed` files. For a missing one, takes the file of the same name with another audio suffix.

    Args:
        listed: files, as the set's table names them.
        source: name of the table, for the message.

    Raises:
        DataError: files are missing.
    """
    found: list[Path] = []
    missing: list[Path] = []
    present: dict[Path, set[str]] = {}
    for path in listed:
        if path.parent not in present:
            present[path.parent] = {entry.name for entry in scan(path.parent)} if is_folder(path.parent) else set()
        names = present[path.parent]
        choices = [path.name, *(path.stem + suffix for suffix in SOUNDS)]
        match = next((name for name in choices if name in names), None)
        (missing if match is None else found).append(path if match is None else path.parent / match)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(listed)} files listed in {shown(source)} are missing, first {shown(missing[0])}: "
            "unpack the set again, or remove them from the list"
        )
    return found


def check_sound(path: Path, limits: Limits = DEFAULT) -> None:
    """Decode an audio file to its end.

    Raises:
        DataError: the file is missing, unreadable, empty, larger than `limits`, or shorter than its header says.
    """
    require("train", "soundfile", "soxr")
    require_file(path, limits.max_bytes)
    try:
        _, frames = _length(path, limits)
        with _opened(path) as file:
            found = _count(file, frames)
    except DataError:
        raise
    except Exception as error:  # libsndfile raises many types for damaged files
        raise DataError(
            f"{shown(path)}: not a readable audio file ({reason(error)}); replace it or remove it"
        ) from error
    if not frames or found < frames:
        raise DataError(f"{shown(path)}: an audio file must have its samples, got {found:,} of {frames:,}; replace it")
