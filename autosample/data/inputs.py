"""One file as input of a model: an image or a sound, prepared by the `preprocessing` of a saved model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from autosample.errors import DataError, one_line


def read_input(path: Path, preprocessing: Mapping[str, Any]) -> Float[Tensor, "c *size"]:
    """A file as one example, without the batch: `(1, samples)` for a sound, `(C, H, W)` for an image.

    Args:
        path: File to read.
        preprocessing: As a saved model keeps it. With `sample_rate` [Hz] and `samples`, files are sounds: `normalize`
            sets the level, and `crop` takes the middle [samples]. Otherwise, with `input_size`, files are images: they
            are resized, cropped (`interpolation`, `crop_pct`) and normalised by `mean` and `std`.

    Raises:
        DataError: The file is missing or unreadable, or the preprocessing lacks a setting.
    """
    if not path.is_file():
        raise DataError(f"an input must be a file, got {path}: check the path")
    if "sample_rate" in preprocessing:
        return _sound(path, preprocessing)
    if len(preprocessing.get("input_size", ())) == 3:
        return _image(path, preprocessing)
    raise DataError(
        "the saved model has no preprocessing (sample_rate, or an input_size of three numbers): "
        "save it with preprocessing={...}"
    )


def _sound(path: Path, preprocessing: Mapping[str, Any]) -> Tensor:
    from autosample.data.clips import read_clip

    samples = preprocessing.get("samples", preprocessing.get("crop"))
    if samples is None:
        raise DataError('preprocessing with sample_rate needs "samples", got none: save the model with it')
    clip = read_clip(path, preprocessing["sample_rate"], samples, preprocessing.get("normalize", "none"))
    crop = preprocessing.get("crop") or samples
    start = (samples - crop) // 2
    return torch.from_numpy(clip[start : start + crop])[None]


def _image(path: Path, preprocessing: Mapping[str, Any]) -> Tensor:
    from PIL import Image
    from timm.data.transforms_factory import create_transform

    channels, *size = preprocessing["input_size"]
    try:
        with Image.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable image ({one_line(error)}): pass another file") from error
    known = {key: preprocessing[key] for key in ("interpolation", "crop_mode") if preprocessing.get(key)}
    for key in ("mean", "std"):
        if key in preprocessing:
            known[key] = tuple(preprocessing[key])
    # without `interpolation` all images of the set had one size: use the whole image
    pct = preprocessing.get("crop_pct", None if "interpolation" in preprocessing else 1.0)
    transform = cast(Any, create_transform)((channels, *size), is_training=False, crop_pct=pct, **known)
    return transform(image)
