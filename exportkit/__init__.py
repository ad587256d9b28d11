"""exportkit: TensorFlow graphs to SavedModel versions, from configuration alone.

    from exportkit import plan, run

    report = run(plan(config))

Importing it imports no TensorFlow.
"""

from exportkit.exporting.pipeline import run
from exportkit.planning.plan import plan
from exportkit.registry import load_plugins
from exportkit.report import ExportReport
from exportkit.spec import Config, ExportPlan

__all__ = ["Config", "ExportPlan", "ExportReport", "load_plugins", "plan", "run"]
