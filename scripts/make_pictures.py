"""Draws a set of ImageNet's layout: `python scripts/make_pictures.py OUT [--classes N] [--train N] [--val N] …`.

A class is a grating of one direction and width behind a shape of one kind and colour; places, sizes, phases, light and
noise differ from picture to picture. A picture depends only on the seed, its part, class and number, so a larger set
has the smaller one in it, and running the script again draws what is missing. `autosample fit --config
experiment/imagenet_resnet50 --data.root OUT --model.num_classes N` trains on it; add --data.name tar or --data.name wds
for the set in tar files or in shards.
"""

import argparse
import colorsys
import io
import itertools
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from autosample.cli.main import main as autosample
from autosample.system.files import whole, write_bytes
from autosample.system.progress import tracked

# corners of the shapes; 40 corners are a disc
_CORNERS = (3, 4, 6, 40)


def picture(seed: int, part: int, label: int, number: int, size: int = 224) -> Image.Image:
    """A picture of class `label`, RGB, size × size pixels."""
    kind = np.random.default_rng((seed, label))
    angle, width, hue = kind.uniform(0, np.pi), kind.uniform(0.03, 0.2), kind.uniform(0, 1)
    rng = np.random.default_rng((seed, label, part, number))
    y, x = np.mgrid[:size, :size] / size
    turned = angle + rng.normal(0, 0.06)
    waves = np.sin(2 * np.pi * ((x * np.cos(turned) + y * np.sin(turned)) / width + rng.uniform(0, 1)))
    light = rng.uniform(60, 160) + rng.uniform(-60, 60) * x + rng.uniform(-60, 60) * y + 40 * waves
    pixels = light[..., None] + rng.normal(0, 15, (size, size, 3)) + rng.normal(0, 10, 3)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    radius, turn = rng.uniform(0.12, 0.3) * size, rng.uniform(0, 2 * np.pi)
    center = rng.uniform(radius, size - radius, 2)
    spread = turn + 2 * np.pi * np.arange(_CORNERS[label % len(_CORNERS)]) / _CORNERS[label % len(_CORNERS)]
    corners = center + radius * np.stack([np.cos(spread), np.sin(spread)], 1)
    color = colorsys.hsv_to_rgb(hue + rng.normal(0, 0.02), rng.uniform(0.5, 1), rng.uniform(0.5, 1))
    ImageDraw.Draw(image).polygon([tuple(c) for c in corners], fill=tuple(round(255 * c) for c in color))
    return image


def draw_part(folder: Path, part: int, classes: int, count: int, size: int, seed: int) -> None:
    """Draw the pictures of a part that are not there yet, as `folder/CLASS/NUMBER.JPEG`."""
    every = itertools.product(range(classes), range(count))
    for label, number in tracked(every, classes * count, f"drawing {folder.name}"):
        path = folder / f"n{label:05d}" / f"{number:05d}.JPEG"
        if not path.exists():
            data = io.BytesIO()
            picture(seed, part, label, number, size).save(data, "JPEG", quality=90)
            write_bytes(path, data.getvalue())


def pack(folder: Path) -> None:
    """Pack a part into one tar file beside it."""
    with whole(folder.with_name(f"{folder.name}.tar")) as begun, tarfile.open(begun, "w") as tar:
        for path in sorted(folder.glob("*/*.JPEG")):
            info = tar.gettarinfo(path, str(path.relative_to(folder)))
            info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
            with path.open("rb") as file:
                tar.addfile(info, file)


def main(words: list[str] | None = None) -> None:
    """Draw the set that the arguments describe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the set")
    parser.add_argument("--classes", type=int, default=64)
    parser.add_argument("--train", type=int, default=290, help="pictures of a class for training")
    parser.add_argument("--val", type=int, default=25, help="pictures of a class for validation")
    parser.add_argument("--size", type=int, default=224, help="height and width [pixels]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tar", action="store_true", help="also pack each part into a tar file")
    parser.add_argument("--shards", action="store_true", help="also write webdataset shards, by `autosample shard`")
    given = parser.parse_args(words)
    for part, (name, count) in enumerate((("train", given.train), ("val", given.val))):
        draw_part(given.out / name, part, given.classes, count, given.size, given.seed)
        if given.tar:
            pack(given.out / name)
    if given.shards and autosample(["shard", str(given.out), str(given.out)]):
        raise SystemExit(2)
    print(f"{given.classes * (given.train + given.val):,} pictures in {given.out}")


if __name__ == "__main__":
    main()
