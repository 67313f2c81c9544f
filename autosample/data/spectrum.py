"""Log-mel spectrograms of whole batches of clips, in plain torch, on the device of the batch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autosample.errors import DataError, hint

_FLOOR = 1e-10  # power below which a band counts as silent, as in torchaudio: -100 dB
_LARGEST = 2**30  # numbers in a spectrum: settings may come from anyone


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """The log-mel spectrogram of clips: `(10·log10(power in each mel band) - mean) / std`.

    A step like those in `augment`, but without random numbers: `(B, C, T)` to `(B, C, n_mels, frames)`, float32.
    Frames have a Hann window and lie around every `hop`-th sample; clips are mirrored at their ends. Bands are
    triangles of height 1 on the HTK mel scale. The arithmetic is in float32, whatever precision the net trains in.

    Args:
        sample_rate: of the clips [Hz].
        n_fft: length of a frame [samples].
        hop: from one frame to the next [samples].
        n_mels: number of bands.
        f_min, f_max: lowest and highest frequency of the bands [Hz]; None for half the sample rate.
        mean, std: what is subtracted, and then divided by [dB]; by default about those of ESC-10 at peak level.

    Raises:
        DataError: a setting is not usable, or a band is narrower than the distance of two frequencies of a frame.
    """

    sample_rate: int
    n_fft: int = 1024
    hop: int = 512
    n_mels: int = 64
    f_min: float = 0.0
    f_max: float | None = None
    mean: float = -15.0
    std: float = 35.0

    def __post_init__(self) -> None:
        self._check_numbers()
        top = self.sample_rate / 2
        if not 0 <= self.f_min < self.highest <= top:
            raise DataError(
                f"log_mel needs 0 <= f_min < f_max <= {top:g} Hz, half the sample rate, got {self.f_min:g} and "
                f"{self.highest:g}: leave f_max out"
            )
        if not self.std > 0:
            raise DataError(f"log_mel.std must be above 0, got {self.std:g}: leave it out")
        empty = (_bands(self).amax(1) == 0).sum()
        if empty:
            raise DataError(
                f"each band of log_mel must hold a frequency of its frames, got {empty} of {self.n_mels} without: "
                "lower n_mels, or raise n_fft"
            )

    def _check_numbers(self) -> None:
        for name, most in (("n_fft", lambda: 2**16), ("hop", lambda: self.n_fft), ("n_mels", lambda: 2**10)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most():
                raise DataError(
                    f"log_mel.{name} must be a whole number from 1 to {most()}, got {value!r:.40}: leave it out"
                )
        for name in ("f_min", "f_max", "mean", "std"):
            value = getattr(self, name)
            if name == "f_max" and value is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise DataError(f"log_mel.{name} must be a number, got {value!r:.40}: leave it out")

    @classmethod
    def of(cls, settings: Any, sample_rate: int) -> "LogMel":
        """One from plain data: a mapping of the settings other than the rate.

        Raises:
            DataError: as the class, or a setting is unknown.
        """
        known = [field.name for field in fields(cls)][1:]
        if not isinstance(settings, Mapping):
            raise DataError(f"log_mel must be a mapping, such as {{n_mels: 64}}, got {settings!r:.40}: write {{}}")
        for name in settings:
            if name not in known:
                raise DataError(f'log_mel has no setting "{name!s:.40}": {hint(str(name)[:40], known)}')
        return cls(sample_rate=sample_rate, **settings)

    @property
    def highest(self) -> float:
        """The highest frequency of the bands [Hz]."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    def settings(self) -> dict[str, Any]:
        """The inverse of `of`."""
        given = asdict(self)
        del given["sample_rate"]
        return given

    def shape(self, samples: int) -> tuple[int, int]:
        """Bands and frames of a clip of this length [samples].

        Raises:
            DataError: it is shorter than a frame, or its spectrogram is too large.
        """
        if samples < self.n_fft:
            raise DataError(
                f"a clip must be at least as long as a frame of log_mel, {self.n_fft} samples, got {samples}: use "
                "longer clips (seconds, crop_seconds), or a smaller n_fft"
            )
        frames = 1 + (samples - self.n_fft % 2) // self.hop
        if frames * max(self.n_fft, self.n_mels) > _LARGEST:
            raise DataError(
                f"the spectrum of a clip may have {_LARGEST:,} numbers, got {frames:,} frames of {self.n_fft}: "
                "raise hop"
            )
        return self.n_mels, frames

    def __call__(
        self, x: Float[Tensor, "b c t"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c mels frames"]:
        size = self.shape(x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            window, bands = _on_device(self, x.device)
            wave = x.float().flatten(0, -2)
            spectrum = torch.stft(wave, self.n_fft, self.hop, window=window, pad_mode="reflect", return_complex=True)
            power = bands @ (spectrum.real.square() + spectrum.imag.square())
            level = (10 * power.clamp_min(_FLOOR).log10() - self.mean) / self.std
        return level.view(*x.shape[:-1], *size)


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


@lru_cache(maxsize=8)
def _bands(mel: LogMel) -> Tensor:
    """The weights of frequencies in each band, (n_mels, n_fft // 2 + 1), float64."""
    edges = torch.linspace(_mel(mel.f_min), _mel(mel.highest), mel.n_mels + 2, dtype=torch.float64)
    hertz_at = 700 * (10 ** (edges / 2595) - 1)
    low, middle, high = (hertz_at[i : i + mel.n_mels, None] for i in range(3))
    hertz = torch.arange(mel.n_fft // 2 + 1, dtype=torch.float64) * mel.sample_rate / mel.n_fft
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    return torch.minimum(rising, falling).clamp_min(0)


@lru_cache(maxsize=8)
def _on_device(mel: LogMel, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window and the bands in float32."""
    return torch.hann_window(mel.n_fft, device=device), _bands(mel).to(device, torch.float32)
