"""The side of the process that was forked: it becomes what its parent was at the start, runs its task, and writes the value."""

import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

VALUE = "value"  # the file that holds what came of a task
TOLD_BYTES = 1000  # far less than a pipe takes at once: a message is there as a whole or not at all

_parent: Connection | None = None
_telling = threading.Lock()


@dataclass(frozen=True)
class Surroundings:
    """What a task finds around it: its parent's environment, and places of its own.

    The working directory and sys.path are multiprocessing's to hand over.
    """

    environment: Mapping[str, str]
    scratch: Path  # the task's own, with `temporary` inside
    output: Sequence[Connection]  # what stdout and stderr shall be

    @property
    def temporary(self) -> Path:
        return self.scratch / "tmp"


def tell(text: str) -> None:
    """In a task: tell the parent something, such as a stage's name. Elsewhere: nothing."""
    if _parent is not None:
        with _telling, suppress(BrokenPipeError):
            _parent.send_bytes(text.encode()[:TOLD_BYTES])


def inside() -> bool:
    """Whether this process runs a task."""
    return _parent is not None


def main(surroundings: Surroundings, parent: Connection, task: bytes) -> None:
    """Run a pickled task: function and arguments. What it returns, or why it did not, is left in its scratch directory."""
    global _parent
    gone = multiprocessing.parent_process().sentinel
    if wait([gone], timeout=0):
        return
    os.setsid()
    threading.Thread(target=_end_with, args=(gone,), daemon=True).start()
    _become(surroundings)
    _parent = parent
    ours = os.getpid()
    outcome = _outcome(task)
    if os.getpid() != ours:  # a copy, forked by the task, that came back from it
        os._exit(1)
    _leave(surroundings.scratch / VALUE, outcome)


def _end_with(parent: int) -> None:
    """Kill this process, and what it started, as soon as the parent is gone, however that ended."""
    wait([parent])
    os.killpg(0, signal.SIGKILL)


def _become(surroundings: Surroundings) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    _redirect(surroundings.output)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(surroundings.environment, TMPDIR=str(surroundings.temporary))
    tempfile.tempdir = None  # where the server's is
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # all forks would draw the same numbers


def _redirect(output: Sequence[Connection]) -> None:
    for number, connection in zip((1, 2), output, strict=True):
        os.dup2(connection.fileno(), number)
        connection.close()
    sys.stdout.reconfigure(line_buffering=True)  # what is in a buffer dies with the process


def _outcome(task: bytes) -> tuple[bool, Any]:
    """Whether a task returned, and its value or the reason; what it raised is shown where it writes to."""
    try:
        function, arguments = pickle.loads(task)
        return True, function(*arguments)
    except Exception as error:
        traceback.print_exc()
        return False, brief(error)


def _leave(file: Path, outcome: tuple[bool, Any]) -> None:
    try:
        content = pickle.dumps(outcome)
    except Exception as error:
        content = pickle.dumps((False, f"its value cannot be pickled: {brief(error)}"))
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.rename(file)


def brief(error: BaseException) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
