"""A set of ImageNet's layout, for tests."""

import tarfile

import numpy as np
import torch
from PIL import Image

from autosample.data.sets.timm_images import TimmImages

NAMES = ("n2", "n10", "n30")  # in timm's order


def draw(path, seed, size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).convert(mode).save(path, **options)


def made(root, **options):
    return TimmImages(str(root), **{"image_size": 16, "batch_size": 4, "num_workers": 0, "drop_last": False, **options})


def joined(loader):
    batches = list(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def pack(folder, path, inner=False):
    with tarfile.open(path, "w") as tar:
        for one in sorted(folder.iterdir()):
            if not inner:
                tar.add(one, one.name)
                continue
            packed = folder.parent / f"{one.name}.tar"
            with tarfile.open(packed, "w") as small:
                for file in sorted(one.iterdir()):
                    small.add(file, file.name)
            tar.add(packed, packed.name)
