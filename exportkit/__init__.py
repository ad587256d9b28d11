"""exportkit: TensorFlow graphs to SavedModel versions, from configuration alone.

    from exportkit import plan, run

    report = run(plan(config))

Importing it imports no TensorFlow, and each name only when it is used. ARCHITECTURE.md is the map of what lies below.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportkit.exporting.pipeline import run
    from exportkit.planning.plan import plan
    from exportkit.registry import load_plugins
    from exportkit.report import ExportReport
    from exportkit.spec import Config, ExportPlan

_HOMES = {
    "Config": "spec",
    "ExportPlan": "spec",
    "ExportReport": "report",
    "load_plugins": "registry",
    "plan": "planning.plan",
    "run": "exporting.pipeline",
}

__all__ = ["Config", "ExportPlan", "ExportReport", "load_plugins", "plan", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
