"""Tasks, each in a process of its own, forked from a server that has done nothing but import.

A process of its own per task: what one leaves behind, another never sees; what kills one, kills it alone. Importing TensorFlow
takes seconds, so a server (multiprocessing's forkserver) imports it once. It runs nothing: after one eager operation a fork
would hang.
"""

from exportkit.processes.child import inside, tell
from exportkit.processes.events import Died, Ended, Event, Started, Task, Told
from exportkit.processes.parent import processors, run, terminable
from exportkit.processes.scratch import scratch

__all__ = [
    "Died",
    "Ended",
    "Event",
    "Started",
    "Task",
    "Told",
    "inside",
    "processors",
    "run",
    "scratch",
    "tell",
    "terminable",
]
