import os

import pytest
from timm_sets import NAMES, draw


@pytest.fixture
def real_data():
    folder = os.environ.get("AUTOSAMPLE_DATA")
    if not folder:
        pytest.skip("AUTOSAMPLE_DATA is not set")
    return folder


@pytest.fixture
def root(tmp_path):
    """Three classes, with four pictures for training and two for validation."""
    for label, name in enumerate(NAMES):
        for i in range(4):
            draw(tmp_path / "train" / name / f"{i}.jpg", 10 * label + i)
        for i in range(2):
            draw(tmp_path / "validation" / name / f"{i}.jpg", 10 * label + i + 5)
    return tmp_path
