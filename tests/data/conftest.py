import os

import pytest


@pytest.fixture
def real_data():
    folder = os.environ.get("AUTOSAMPLE_DATA")
    if not folder:
        pytest.skip("AUTOSAMPLE_DATA is not set")
    return folder
