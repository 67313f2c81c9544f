"""The set that `scripts/make_pictures.py` draws: the same again, whole after a break, and one that a net can learn."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from autosample.data.sets.timm_images import TimmImages

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "make_pictures.py"))


@pytest.fixture
def drawn(tmp_path):
    def draw(name, *more):
        SCRIPT["main"]([str(tmp_path / name), "--classes=4", "--train=4", "--val=2", "--size=32", *more])
        return tmp_path / name

    return draw


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_set_is_drawn_again_byte_by_byte(drawn):
    first, second = files(drawn("a", "--tar")), files(drawn("b", "--tar"))
    assert first == second
    assert len(first) == 4 * (4 + 2) + 2
    assert len(set(first.values())) == len(first)
    assert files(drawn("c", "--seed=1")).items().isdisjoint(first.items())
    other = drawn("a", "--train=5", "--tar")  # draws what is missing
    assert first.items() - files(other).items() == {("train.tar", first["train.tar"])}
    assert len(list(other.rglob(".*"))) == 0


def test_folders_tar_files_and_shards_hold_the_same(drawn):
    root = drawn("a", "--tar", "--shards")
    batches = []
    for name in ("", "tar", "wds"):
        data = TimmImages(str(root), name=name, image_size=32, batch_size=8, num_workers=0, crop_pct=1.0)
        assert data.sizes == {"train": 16, "val": 8, "test": 8}
        batches += data.val_dataloader()
    for x, y in batches[1:]:
        assert torch.equal(x, batches[0][0])
        assert torch.equal(y, batches[0][1])


def test_classes_can_be_told_apart():
    """By the mean colours of the shape alone, most pictures lie next to one of their class."""
    pixels = np.stack([np.asarray(SCRIPT["picture"](0, 0, c, i, 32)) for c in range(3) for i in range(8)]).astype(float)
    spread = pixels.max(-1) - pixels.min(-1)  # the shape is the coloured part
    means = np.stack([(p * (s > 60)[..., None]).sum((0, 1)) for p, s in zip(pixels, spread, strict=True)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    near = means @ means.T - 2 * np.eye(24)
    assert (near.argmax(1) // 8 == np.arange(24) // 8).mean() > 0.6
