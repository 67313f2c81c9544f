"""Reading audio files as float32 clips of one length and sample rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from autosample.data.cache import cached_array, file_stamp, in_threads
from autosample.errors import DataError, one_line
from autosample.system.extras import require

Loudness = Literal["none", "peak", "rms"]
RMS_LEVEL = 0.1  # -20 dBFS leaves headroom for peaks
_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")


def read_clip(path: Path, sample_rate: int, samples: int, normalize: Loudness = "none") -> np.ndarray:
    """One audio file as a mono clip, float32 (samples,).

    Channels are averaged. Files with another rate are resampled by soxr (HQ). Longer files keep their middle, shorter
    ones get silence on both sides.

    Args:
        path: a file in any format that libsndfile reads.
        sample_rate: sample rate of the clip [Hz].
        samples: length of the clip [samples].
        normalize: "peak" scales the largest absolute value to 1; "rms" scales the RMS over the file's own samples to
            0.1; "none" keeps the level. Silence stays silence.

    Raises:
        DataError: the file is missing, unreadable or empty, or holds values that are not finite.
    """
    mono, rate = _decoded(path)
    if rate != sample_rate:
        import soxr

        mono = soxr.resample(mono, rate, sample_rate)
    spare = len(mono) - samples
    if spare > 0:
        mono = mono[spare // 2 : spare // 2 + samples]
    level = _level(mono, normalize)
    clip = np.zeros(samples, dtype=np.float32)
    before = max(0, -spare) // 2
    clip[before : before + len(mono)] = mono * level
    return clip


def _decoded(path: Path) -> tuple[np.ndarray, int]:
    """The samples of a file, averaged over channels, and their rate [Hz]."""
    require("train", "soundfile", "soxr")
    import soundfile

    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not a readable audio file ({one_line(error)}); replace it or remove it from the set"
        ) from error
    if not len(wave):
        raise DataError(f"{path}: an audio file must have samples, got none; replace it or remove it from the set")
    mono = wave.mean(axis=1) if wave.shape[1] > 1 else wave[:, 0]
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: samples must be finite numbers, got NaN or infinity; replace the file")
    return mono, rate


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
    paths: Sequence[Path], root: Path, cache: Path | None, sample_rate: int, samples: int, normalize: Loudness
) -> np.ndarray:
    """Read all `paths` with `read_clip`: float32 (N, 1, samples). A valid cache in the folder `cache` is used."""

    def fill(array: np.ndarray) -> None:
        def one(i: int) -> None:
            array[i, 0] = read_clip(paths[i], sample_rate, samples, normalize)

        in_threads(one, len(paths), "decoding audio")

    key = {"files": file_stamp(paths, root), "rate": sample_rate, "samples": samples, "normalize": normalize}
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
            present[path.parent] = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
        names = present[path.parent]
        choices = [path.name, *(path.stem + suffix for suffix in _SUFFIXES)]
        match = next((name for name in choices if name in names), None)
        (missing if match is None else found).append(path if match is None else path.parent / match)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(listed)} files listed in {source} are missing, first {missing[0]}: unpack the set "
            "again, or remove them from the list"
        )
    return found
