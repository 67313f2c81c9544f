"""What the tests of exports share."""

import pytest
from small_nets import NETS


@pytest.fixture(params=NETS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param
