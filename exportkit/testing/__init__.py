"""For plugin authors: conformance suites to subclass, toy checkpoints with the traits of real ones, and the command line.

    from exportkit.testing import SourceSuite

    class TestMine(SourceSuite):
        source = MySource

Modules below: `toys` saves checkpoints, exports them and asks versions; `graphs` has the graphs. `main` is the command line:
``main(["plan", "model=NAME"])`` returns its exit code. Needs pytest, which shows what was compared where a check fails.
"""

import pytest

pytest.register_assert_rewrite(*(f"exportkit.testing.{name}" for name in ("suite", "sources", "steps", "bindings")))

from exportkit.cli import main  # noqa: E402
from exportkit.testing.bindings import BindingSuite  # noqa: E402 - its asserts are rewritten as it is imported
from exportkit.testing.sources import SourceSuite  # noqa: E402
from exportkit.testing.steps import StepSuite  # noqa: E402

__all__ = ["BindingSuite", "SourceSuite", "StepSuite", "main"]
