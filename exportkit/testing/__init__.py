"""For plugin authors: conformance suites to subclass, and toy checkpoints with the traits of real ones.

    from exportkit.testing import SourceSuite

    class TestMine(SourceSuite):
        source = MySource

Needs pytest, which shows what was compared where a check fails.
"""

import pytest

pytest.register_assert_rewrite("exportkit.testing.suite", "exportkit.testing.sources", "exportkit.testing.steps")

from exportkit.testing.sources import SourceSuite  # noqa: E402 - its asserts are rewritten as it is imported
from exportkit.testing.steps import StepSuite  # noqa: E402

__all__ = ["SourceSuite", "StepSuite"]
