"""Ends a process when the one that started it is gone, however that ended: a pipe whose other end only the starter holds.

Run as a script, with the pipe's descriptor and a worker script, it becomes that worker. It imports the standard library alone,
so a worker in a fresh interpreter imports no more of exportkit than its script does.
"""

import fcntl
import os
import resource
import runpy
import signal
import sys
import threading
from pathlib import Path


def lead_group(lifeline: int) -> None:
    """Lead a process group of its own, which ends with the starter, and write no core dump.

    A model that kills its process is a finding, not 400 MB on a disk.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.setpgid(0, 0)
    end_with(lifeline)


def end_with(lifeline: int) -> None:
    """Have this process's group killed as soon as the other end of the pipe is closed. This process must lead the group.

    On Linux the kernel does that (F_SETSIG in fcntl(2)), even while C++ code holds the interpreter's lock; elsewhere a thread.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_kill_group_after, args=(lifeline,), daemon=True).start()  # also if it was closed before


def _kill_group_after(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing is ever written: it returns at the end of the pipe
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Become a worker: ``lifeline.py DESCRIPTOR SCRIPT``."""
    descriptor, script = sys.argv[1:]
    lead_group(int(descriptor))
    if (ours := str(Path(__file__).parents[2])) not in sys.path:
        sys.path.insert(0, ours)  # a worker imports parts of this very exportkit, wherever its starter found it
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
