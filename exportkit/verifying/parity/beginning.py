"""What a proof begins before its turn: the training graph needs the checkpoint alone, and the export the written files."""

from contextlib import suppress

from exportkit.contract import Export
from exportkit.errors import EnvironmentFailed, ExportKitError, Problem
from exportkit.processes import memory
from exportkit.verifying.parity.trials import MovedExport, TrainingGraph

_SHARE = 0.75  # of the free memory that both sides may take: files that are read from the rest, and other programs, need some


def begin(export: Export, timeout: float) -> None:
    """Start the training graph of the first meta graph that is compared, where that needs nothing of the export.

    What prevents that is reported when the graph is asked for, except for memory that does not suffice.

    Raises:
        EnvironmentFailed: the memory that is available does not hold the weights of a meta graph.
    """
    _demand_memory(export)
    key = _first(export)
    if key is None or (TrainingGraph, key) in export.begun or not both_fit(export, key):
        return
    with suppress(ExportKitError):
        graph = TrainingGraph(export, key, timeout)
        graph.begin()
        export.begun[TrainingGraph, key] = graph


def begin_written(export: Export, timeout: float) -> None:
    """Load the first meta graph that is compared, in a thread, while the version is still read back and synced.

    No step may run before the one that asks for it. What prevents it is reported then.
    """
    key = _first(export)
    if key is None or (MovedExport, key) in export.begun or not both_fit(export, key):
        return
    with suppress(ExportKitError):
        moved = MovedExport(export, key, timeout)
        moved.begin()
        export.begun[MovedExport, key] = moved


def both_fit(export: Export, key: str) -> bool:
    """Return whether memory holds the weights of both sides of meta graph `key`; once a side is begun, what was found then."""
    if {(TrainingGraph, key), (MovedExport, key)} & export.begun.keys():
        return True
    free = memory.available()
    return free is None or 2 * _weights(export, key) <= _SHARE * free


def _demand_memory(export: Export) -> None:
    free = memory.available()
    for key in export.bound:
        if free is not None and not elsewhere(export, key) and (size := _weights(export, key)) > free:
            needs, has = f"{size / 1e9:.1f} GB", f"{free / 1e9:.1f} GB"
            what = f"the weights of meta_graphs.{key} take {needs} of memory to run, and {has} are free"
            raise EnvironmentFailed(Problem("", what, "free some memory; ~post.verify exports it unverified"))


def _weights(export: Export, key: str) -> int:
    """Return the bytes of the variables that meta graph `key` restores."""
    prepared = export.prepared
    names = {variable.full_name for variable in prepared.parts[key].pruned.variables.values()}
    copied = (prepared.sources[name] for name in names & prepared.sources.keys())
    return sum(bundle.entry(key).size for bundle, key in copied)


def _first(export: Export) -> str | None:
    """Return the first meta graph that is compared."""
    return next((key for key in export.bound if not elsewhere(export, key)), None)


def training_graph(export: Export, key: str, timeout: float) -> TrainingGraph:
    """Return the training graph of meta graph `key`: the one that was begun, or a new one."""
    return export.begun.pop((TrainingGraph, key), None) or TrainingGraph(export, key, timeout)


def moved_export(export: Export, key: str, timeout: float) -> MovedExport:
    """Return the copy of meta graph `key`: the one whose load was begun, if the version is still what it was, or a new one."""
    begun: MovedExport | None = export.begun.pop((MovedExport, key), None)
    if begun is not None and begun.is_current():
        return begun
    if begun is not None:
        begun.close()
    return MovedExport(export, key, timeout)


def elsewhere(export: Export, key: str) -> str:
    """Return the device that meta graph `key` is pinned to; empty where that is the CPU."""
    device = export.plan.meta_graphs[key].device
    return "" if not device or "CPU" in device.upper() else device
