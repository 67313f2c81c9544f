"""What tests of the fused kernel need."""

import pytest

from autosample.reuse import fused


@pytest.fixture(scope="session")
def kernel() -> None:
    """Skips where the kernel cannot be built; builds it where it has not been yet."""
    if why := fused.why_not():
        pytest.skip(why)
