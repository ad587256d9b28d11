"""The keeper of a task: a process between the server and the task's, which outlives it and ends whatever it has left.

A task's process group does not hold what moved to another session (setsid, a double fork, as daemons do). On Linux the kernel
makes every orphan below a keeper its child (PR_SET_CHILD_SUBREAPER in prctl(2)), so it finds those too. Elsewhere there is no
keeper, and only the task's process group is ended.
"""

import ctypes
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PATIENCE = 5.0  # seconds for killed processes to end; one in an uninterruptible wait does not


def keep(lifeline: int) -> None:
    """Return in a process that is kept; this one becomes its keeper, which never returns.

    The keeper ends, with all that lives below it, when the kept process has ended, on SIGTERM, or when the other end of the
    pipe `lifeline` is closed; its exit code or signal is that of the kept process. Where there can be no keeper, return in this
    process.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is None or prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return
    os.setsid()
    keeper, wake = os.getpid(), _wakened_by(signal.SIGCHLD, signal.SIGTERM)
    kept = os.fork()
    if kept == 0:
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.close(signal.set_wakeup_fd(-1))
        os.close(wake)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)  # the keeper died before this process could be bound to it
        return
    code = None
    try:
        code = _wait(kept, wake, lifeline)
    finally:
        _end_all(kept)
        _end_as(code)


def _wakened_by(*signals: int) -> int:
    """Return a descriptor that can be read from when one of `signals` has come."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    return ours


def _wait(kept: int, wake: int, lifeline: int) -> int | None:
    """Wait for the end of the kept process; return its code, minus a signal's number, or None where it shall be ended."""
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == lifeline or signal.SIGTERM in os.read(wake, 1024):
                return None
        while (ended := _reaped()) is not None:
            if ended[0] == kept:
                return ended[1]


def _reaped() -> tuple[int, int] | None:
    """Return the process id and the code of a child that has ended; None where there is none."""
    with suppress(ChildProcessError):
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            return process, os.waitstatus_to_exitcode(status)
    return None


def _end_all(kept: int) -> None:
    """Kill what lives below this process until nothing does: what is killed may have started more."""
    last = time.monotonic() + _PATIENCE
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(kept, signal.SIGKILL)
    while time.monotonic() < last:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for process in _below(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.002)


def _below(ancestor: int) -> list[int]:
    """Return the processes that descend from a process, from /proc."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found = [ancestor]
    for process in found:
        found += children.get(process, [])
    return found[1:]


def _end_as(code: int | None) -> None:
    """End this process as the kept one has ended."""
    if code is not None and code >= 0:
        os._exit(code)
    number = signal.SIGKILL if code is None else -code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(1)
