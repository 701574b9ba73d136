"""What several tests of generated weights start from."""

import pytest

from tests.banked import SPECS, Twins, twins


@pytest.fixture(params=SPECS)
def pair(request: pytest.FixtureRequest) -> Twins:
    """A shared network and its slow twin, of every kind of bank."""
    return twins(SPECS[request.param]())
