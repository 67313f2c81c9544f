"""Files as inputs of a model: images or sounds, prepared by the `preprocessing` of a saved model.

The log-mel spectrogram of a sound is a part of this preparation, not of the net: nets take what `read_input` returns.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from autosample.data.files import DEFAULT, Limits, is_folder, shown
from autosample.errors import DAMAGED, ArtifactError, DataError, one_line
from autosample.system.checking import as_float, as_int


def read_input(path: Path, preprocessing: Mapping[str, Any], limits: Limits = DEFAULT) -> Float[Tensor, "c *size"]:
    """A file as one example, without the batch: `(C, H, W)` for an image, `(1, samples)` for a sound.

    A sound becomes a spectrogram `(1, bands, frames)` if the preprocessing has `log_mel`.

    Args:
        path: File to read.
        preprocessing: As a saved model keeps it. With `sample_rate` [Hz] and `samples`, files are sounds: `normalize`
            sets the level, `crop` takes the middle [samples], and `log_mel` has the settings of `LogMel`. Otherwise,
            with `input_size`, files are images: they are resized, cropped (`interpolation`, `crop_pct`, `crop_mode`)
            and normalised by `mean` and `std`.
        limits: What a file may hold.

    Raises:
        DataError: The file is missing, unreadable or too large, or the preprocessing lacks a setting.
        ArtifactError: A setting of the preprocessing is not usable.
    """
    if "sample_rate" in preprocessing:
        return _sound(path, preprocessing, limits)
    size = preprocessing.get("input_size")
    if isinstance(size, Sequence) and len(size) == 3:
        return _image(path, preprocessing, limits)
    raise DataError(
        "the saved model has no preprocessing (sample_rate, or an input_size of three numbers): "
        "save it with preprocessing={...}"
    )


def read_inputs(
    paths: Sequence[Path], preprocessing: Mapping[str, Any], most: int, limits: Limits = DEFAULT
) -> Float[Tensor, "n c *size"]:
    """Files, and the images or sounds below folders, as one batch; of more than `most` files, evenly spaced ones.

    Raises:
        DataError: There are none, or as `read_input`.
        ArtifactError: As `read_input`.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    from autosample.data.clips import SOUNDS

    if most < 1:
        raise DataError(f"the number of examples must be at least 1, got {most}: leave it out")
    suffixes = SOUNDS if "sample_rate" in preprocessing else IMG_EXTENSIONS
    files = [file for path in paths for file in (_below(path, suffixes) if is_folder(path) else [path])]
    if not files:
        raise DataError(
            f"{shown(', '.join(map(str, paths)))} must have files ({' '.join(suffixes)}), got none: check the path"
        )
    count = min(most, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]
    return torch.stack([read_input(file, preprocessing, limits) for file in chosen])


def _below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files with these suffixes below a folder, by name; links to folders are not followed."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.suffix.lower() in suffixes)


def _sound(path: Path, preprocessing: Mapping[str, Any], limits: Limits) -> Tensor:
    from autosample.data.clips import Loudness, read_clip
    from autosample.data.spectrum import LogMel

    samples = preprocessing.get("samples", preprocessing.get("crop"))
    if samples is None:
        raise DataError('preprocessing with sample_rate needs "samples", got none: save the model with it')
    rate = as_int(preprocessing["sample_rate"], "sample_rate", 1, 10**7)
    samples = as_int(samples, "samples", 1, int(limits.max_seconds * rate))
    crop = as_int(preprocessing.get("crop") or samples, "crop", 1, samples)
    normalize = preprocessing.get("normalize", "none")
    if normalize not in get_args(Loudness):
        raise ArtifactError(f"normalize must be one of {', '.join(get_args(Loudness))}: {DAMAGED}")
    mel = LogMel.of(preprocessing["log_mel"], rate) if "log_mel" in preprocessing else None
    clip = read_clip(path, rate, samples, normalize, limits)
    start = (samples - crop) // 2
    wave = torch.from_numpy(clip[start : start + crop])[None]
    return wave if mel is None else mel(wave[None])[0]


def _image(path: Path, preprocessing: Mapping[str, Any], limits: Limits) -> Tensor:
    from timm.data.transforms_factory import create_transform

    from autosample.data.image_files import open_image

    channels, *size = (as_int(n, "input_size", 1, limits.max_pixels) for n in preprocessing["input_size"])
    if channels not in (1, 3):
        raise DataError(f"an image has 1 or 3 channels, but the model takes {channels}: prepare the input yourself")
    image = open_image(path, "L" if channels == 1 else "RGB", limits)
    # without `interpolation` all images of the set had one size: use the whole image
    pct = preprocessing.get("crop_pct", None if "interpolation" in preprocessing else 1.0)
    resized = size[0] * size[1] / as_float(pct or 0.875, "crop_pct") ** 2 * max(image.size) / min(image.size)
    if resized > limits.max_pixels:
        raise DataError(
            f"{shown(path)}: resized for the model, an image may have {limits.max_pixels:,} pixels, got "
            f"{resized:,.0f}: cut it, or pass a larger max_pixels"
        )
    known = {key: preprocessing[key] for key in ("interpolation", "crop_mode") if preprocessing.get(key)}
    try:
        known |= {key: tuple(preprocessing[key]) for key in ("mean", "std") if key in preprocessing}
        transform = cast(Any, create_transform)((channels, *size), is_training=False, crop_pct=pct, **known)
        return transform(image)
    except Exception as error:  # timm checks nothing
        raise ArtifactError(f"the model's preprocessing is not usable ({one_line(error)[:100]}): {DAMAGED}") from error
