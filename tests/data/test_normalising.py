"""The joined last steps of timm's transforms against these steps one by one, and generators that stay as they were."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from autosample.data.normalising import ToNormalised, with_joined_steps
from autosample.data.workers import own_chance


@pytest.mark.parametrize("options", [{}, {"is_training": True, "re_prob": 1.0, "auto_augment": "rand-m9-mstd0.5"}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_numbers_are_those_of_the_steps(options, mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).convert(mode)
    mean = (0.5, 0.4, 0.3) if mode == "RGB" else (0.5,)
    steps = create_transform((3, 24, 24), mean=mean, std=mean, **options)
    joined = with_joined_steps(steps)
    assert sum(type(step) is ToNormalised for step in joined.transforms) == 1
    with own_chance() as seed:
        seed(1)
        expected = steps(image)
        seed(1)
        got = joined(image)
    assert torch.equal(got, expected)
    assert got.is_contiguous()
    assert got.dtype == torch.float32


def test_generators_go_on_after_a_block_with_its_own_chance():
    def draw():
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    expected = [draw(), draw()]
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    first = draw()
    with own_chance() as seed:
        seed(7, 1)
        inside = draw()
        seed(7, 2)
        assert draw() != inside
    assert [first, draw()] == expected
    with own_chance() as seed:
        seed(7, 1)
        assert draw() == inside
