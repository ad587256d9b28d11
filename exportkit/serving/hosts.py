"""The process in which the steps of an export load its version, one after the other."""

from pathlib import Path
from typing import TYPE_CHECKING

from exportkit.core.host import Host
from exportkit.processes import Sandbox
from exportkit.serving.running import Running

if TYPE_CHECKING:
    from exportkit.contract import Export


def copies(scratch: Path) -> Path:
    """Return the directory for copies of the version; it is created."""
    place = scratch / "copies"
    place.mkdir(exist_ok=True)
    return place


def make(directory: Path, scratch: Path) -> Host:
    """Return a process that may open the version `directory` and its copies, and nothing that it was made from."""
    return Host(Sandbox([directory, copies(scratch)]))


def of(export: "Export") -> Host:
    """Return the process for the version as it is now: staged, or committed."""
    key = (export.directory, export.scratch)
    if key not in export.hosts:
        export.hosts[key] = make(*key)
    return export.hosts[key]


def served(export: "Export", key: str) -> Running:
    """Return meta graph `key` as a server loads it: in the session that an earlier step left, or in a new one.

    Where that session has ended, what it has answered is remembered still.
    """
    host = of(export)
    if isinstance(host.last, Running) and host.last.serves == key:
        return host.last
    return Running(export.directory, export.meta_graphs[key].meta_info_def.tags, allowed=export.plan.allow.ops, host=host)
