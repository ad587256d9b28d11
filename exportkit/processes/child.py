"""The task's side: a process forked from the server takes on its parent's surroundings, runs the task, writes the result."""

import faulthandler
import io
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from exportkit.errors import brief
from exportkit.processes import spare
from exportkit.processes.keeper import keep
from exportkit.processes.lifeline import end_with

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
RESULT = "result"  # the file with a task's outcome
MESSAGE_BYTES = 1000  # far less than PIPE_BUF (4096): a message is written as a whole or not at all

Call = tuple[Callable[..., Any], tuple[Any, ...]]

_parent: Connection | None = None
_sending = threading.Lock()


@dataclass(frozen=True)
class Surroundings:
    """What a task's process takes on: its parent's environment, and a scratch directory and output of its own.

    multiprocessing hands over the working directory and sys.path.
    """

    environment: Mapping[str, str]
    scratch: Path  # the task's own; contains `temporary`
    output: Sequence[Connection]  # stdout and stderr
    spare: Connection | None = None  # the parent's, if it has one and the process does not have it yet

    @property
    def temporary(self) -> Path:
        return self.scratch / "tmp"


def send_message(text: str) -> None:
    """Send a message, such as a stage's name, to the parent as a `Reported` event; do nothing outside of a task."""
    if _parent is not None:
        with _sending, suppress(BrokenPipeError):
            _parent.send_bytes(text.encode()[:MESSAGE_BYTES])


def inside() -> bool:
    """Return whether this process runs a task."""
    return _parent is not None


def leave_parent() -> None:
    """Forget what is the forked process's alone: its handlers of signals, and its streams with what they hold back."""
    for number in ENDING:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    sys.stdin = open(os.devnull)  # noqa: SIM115 - as long as the process lives
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)


def main(surroundings: Surroundings, parent: Connection, task: bytes | Call) -> None:
    """Run a task, a function and its arguments; write its value, or the reason why there is none, to its scratch."""
    global _parent
    origin = multiprocessing.parent_process()
    if origin is None or wait([origin.sentinel], timeout=0):
        return
    keep(origin.sentinel)
    os.setsid()
    end_with(origin.sentinel)
    _take_on(surroundings)
    _parent = parent
    starter = os.getpid()
    outcome = _outcome(task)
    if os.getpid() != starter:  # a copy that the task forked has returned from it, too
        os._exit(1)
    _write_result(surroundings.scratch / RESULT, outcome)


def _take_on(surroundings: Surroundings) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    _redirect(surroundings.output)
    if surroundings.spare is not None:
        spare.share(socket.socket(fileno=os.dup(surroundings.spare.fileno())))
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(surroundings.environment, TMPDIR=str(surroundings.temporary))
    tempfile.tempdir = None  # the server's; read TMPDIR again
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # else all forks draw the same numbers


def _redirect(output: Sequence[Connection]) -> None:
    for number, connection in zip((1, 2), output, strict=True):
        os.dup2(connection.fileno(), number)
        connection.close()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a buffer is lost when the process dies


def _outcome(task: bytes | Call) -> tuple[bool, Any]:
    """Call a task; return whether it returned, and its value or the exception on one line. Print the traceback."""
    try:
        function, arguments = pickle.loads(task) if isinstance(task, bytes) else task
        return True, function(*arguments)
    except Exception as error:
        traceback.print_exc()
        return False, brief(error)


def _write_result(file: Path, outcome: tuple[bool, Any]) -> None:
    """Write an outcome as a whole: a file that is there is complete."""
    try:
        content = pickle.dumps(outcome)
    except Exception as error:
        content = pickle.dumps((False, f"its value cannot be pickled: {brief(error)}"))
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.rename(file)
