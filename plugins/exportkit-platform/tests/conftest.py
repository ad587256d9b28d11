"""What the tests of the platform plugin share."""

import platform_toys
import pytest


@pytest.fixture(scope="session")
def scores_prefix(tmp_path_factory):
    """The prefix of a checkpoint of `platform_toys.scores`."""
    return platform_toys.save(tmp_path_factory.mktemp("scores"))
