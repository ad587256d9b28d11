"""The one room that starts processes, watches them, describes how they ended, and removes what they leave.

Four ways, each with its reason:

- `run` (parent, server, keeper, child): a task is forked from a server that has done nothing but import, or, where it asks for
  that, from this process as it is. A process of its own per task: its state is never seen by another, and what kills it kills
  it alone. Importing TensorFlow's Python takes seconds, so the server (multiprocessing's forkserver) does once what tasks need.
  It runs nothing: after one session a fork would hang.
- `workers`: a fresh interpreter that runs one script, in a `sandbox` where the script runs somebody else's graph. Reason: what
  checks an export shares no state with it.
- `spare`: the same scripts, forked from a process that has loaded TensorFlow's C library: half a second quicker where there is
  one.
- `pool`: forks of this process itself. Reason: composing needs Hydra's registries, which cannot be pickled.

`death.Death` describes the end of any of them.
"""

from typing import TYPE_CHECKING

from exportkit.lazy import lazy

if TYPE_CHECKING:
    from exportkit.processes.child import inside, send_message
    from exportkit.processes.death import Cause, Death
    from exportkit.processes.events import Died, Ended, Event, Reported, Started, Task
    from exportkit.processes.parent import processors, run, terminable
    from exportkit.processes.sandbox import Sandbox
    from exportkit.processes.server import end_server, prestarted
    from exportkit.processes.spare import early, reserve, shared, single_threaded
    from exportkit.processes.workers import WorkerDied, call_apart, conversation, exchange, not_sandboxed

__getattr__ = lazy(
    __name__,
    {
        "child": "inside send_message",
        "death": "Cause Death",
        "events": "Died Ended Event Reported Started Task",
        "parent": "processors run terminable",
        "sandbox": "Sandbox",
        "server": "end_server prestarted",
        "spare": "early reserve single_threaded shared",
        "workers": "WorkerDied call_apart conversation exchange not_sandboxed",
    },
)

__all__ = [
    "Cause",
    "Death",
    "Died",
    "Ended",
    "Event",
    "Reported",
    "Sandbox",
    "Started",
    "Task",
    "WorkerDied",
    "call_apart",
    "conversation",
    "early",
    "end_server",
    "exchange",
    "inside",
    "not_sandboxed",
    "prestarted",
    "processors",
    "reserve",
    "run",
    "send_message",
    "shared",
    "single_threaded",
    "terminable",
]
