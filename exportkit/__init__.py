"""exportkit: TensorFlow graphs to SavedModel versions, from configuration alone.

    from exportkit import plan, run

    report = run(plan(config))

Importing it imports no TensorFlow, and each name only when it is used. ARCHITECTURE.md is the map of what lies below.
"""

from typing import TYPE_CHECKING

from exportkit.lazy import lazy

if TYPE_CHECKING:
    from exportkit.exporting.pipeline import run
    from exportkit.planning.plan import plan
    from exportkit.registry import load_plugins
    from exportkit.report import ExportReport
    from exportkit.spec import Config, ExportPlan

__getattr__ = lazy(
    __name__,
    {
        "exporting.pipeline": "run",
        "planning.plan": "plan",
        "registry": "load_plugins",
        "report": "ExportReport",
        "spec": "Config ExportPlan",
    },
)

__all__ = ["Config", "ExportPlan", "ExportReport", "load_plugins", "plan", "run"]
