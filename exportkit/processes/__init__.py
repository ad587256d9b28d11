"""Tasks, each in a process of its own, forked from a server that has done nothing but import.

A process of its own per task: what one leaves behind, another never sees; what kills one, kills it alone. Importing TensorFlow
takes seconds, so a server (multiprocessing's forkserver) imports it once. It runs nothing: after one eager operation a fork
would hang.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportkit.processes.child import inside, tell
    from exportkit.processes.events import Died, Ended, Event, Reported, Started, Task
    from exportkit.processes.parent import processors, run, terminable

_MODULES = {
    "child": ("inside", "tell"),
    "events": ("Died", "Ended", "Event", "Reported", "Started", "Task"),
    "parent": ("processors", "run", "terminable"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["Died", "Ended", "Event", "Reported", "Started", "Task", "inside", "processors", "run", "tell", "terminable"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: most commands start no process."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
