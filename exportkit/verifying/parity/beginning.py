"""What a proof begins while the version is still written: the training graph needs the checkpoint alone."""

from contextlib import suppress

from exportkit.contract import Export
from exportkit.errors import ExportKitError
from exportkit.verifying.parity.trials import TrainingGraph


def begin(export: Export, timeout: float) -> None:
    """Start the training graph of the first meta graph that is compared, where that needs nothing of the export.

    What prevents that is reported when the graph is asked for.
    """
    key = next((key for key in export.bound if not elsewhere(export, key)), None)
    if key is None or (TrainingGraph, key) in export.begun:
        return
    with suppress(ExportKitError):
        graph = TrainingGraph(export, key, timeout)
        graph.begin()
        export.begun[TrainingGraph, key] = graph


def training_graph(export: Export, key: str, timeout: float) -> TrainingGraph:
    """Return the training graph of meta graph `key`: the one that was begun, or a new one."""
    return export.begun.pop((TrainingGraph, key), None) or TrainingGraph(export, key, timeout)


def elsewhere(export: Export, key: str) -> str:
    """Return the device that meta graph `key` is pinned to; empty where that is the CPU."""
    device = export.plan.meta_graphs[key].device
    return "" if not device or "CPU" in device.upper() else device
