"""One file as input of a model: an image or a sound, prepared by the `preprocessing` of a saved model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from autosample.data.files import DEFAULT, Limits, shown
from autosample.errors import DAMAGED, ArtifactError, DataError, one_line
from autosample.system.checking import as_float, as_int


def read_input(path: Path, preprocessing: Mapping[str, Any], limits: Limits = DEFAULT) -> Float[Tensor, "c *size"]:
    """A file as one example, without the batch: `(1, samples)` for a sound, `(C, H, W)` for an image.

    Args:
        path: File to read.
        preprocessing: As a saved model keeps it. With `sample_rate` [Hz] and `samples`, files are sounds: `normalize`
            sets the level, and `crop` takes the middle [samples]. Otherwise, with `input_size`, files are images: they
            are resized, cropped (`interpolation`, `crop_pct`, `crop_mode`) and normalised by `mean` and `std`.
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


def _sound(path: Path, preprocessing: Mapping[str, Any], limits: Limits) -> Tensor:
    from autosample.data.clips import Loudness, read_clip

    samples = preprocessing.get("samples", preprocessing.get("crop"))
    if samples is None:
        raise DataError('preprocessing with sample_rate needs "samples", got none: save the model with it')
    rate = as_int(preprocessing["sample_rate"], "sample_rate", 1, 10**7)
    samples = as_int(samples, "samples", 1, int(limits.max_seconds * rate))
    crop = as_int(preprocessing.get("crop") or samples, "crop", 1, samples)
    normalize = preprocessing.get("normalize", "none")
    if normalize not in get_args(Loudness):
        raise ArtifactError(f"normalize must be one of {', '.join(get_args(Loudness))}: {DAMAGED}")
    clip = read_clip(path, rate, samples, normalize, limits)
    start = (samples - crop) // 2
    return torch.from_numpy(clip[start : start + crop])[None]


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
