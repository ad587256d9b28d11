"""What the tests of all plugins share."""

import pytest

from exportkit.cli import choices


@pytest.fixture(autouse=True)
def _all_plugins():
    """Tests of exportkit itself, which a process may have run before, have loaded no other plugins."""
    choices.plugins.cache_clear()
