"""The side that starts tasks, as many at a time as it may, and hears of them."""

import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from exportkit.processes import server
from exportkit.processes.child import VALUE, brief
from exportkit.processes.crash_log import last_words
from exportkit.processes.events import Died, Ended, Event, Reported, Started, Task
from exportkit.processes.scratch import scratch

_LOST = 255  # what multiprocessing says of a process whose server is gone; it may also be the process's own exit code
_LOST_SERVER = "lost the process that had started it, which was killed, most often for want of memory"
_LOST_START = "the process that starts the others died, and did so again when it was started anew"
_PATIENCE = 5.0  # seconds that a killed process may take to be gone
_ENDLESS = float("inf")
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    tasks: Iterable[Task], n_jobs: int | None = None, timeout: float | None = None, preload: Sequence[str] = ()
) -> Iterator[Event]:
    """Run each task in a process of its own, and yield what becomes of them as it happens.

    A task finds the environment, working directory and sys.path of this process; TMPDIR is a directory of its own, which goes
    with it. What a task started and left running is killed when it ends. Close the iterator (`contextlib.closing`) where it is
    not run to its end: that, an exception raised in it, SIGTERM, SIGHUP and SIGQUIT kill all that still runs. If this process
    itself is killed, its tasks end by themselves.

    Args:
        tasks: taken one by one, each when its process can be started.
        n_jobs: how many may run at a time; default: `processors()`.
        timeout: seconds that each may take; then it is killed with all that it started.
        preload: modules that the server imports before the first task; they must do nothing else. This process has one server
            for its whole life, so the first call decides.
    """
    with (
        terminable(),
        scratch() as room,
        closing(_Runner(room, n_jobs or processors(), timeout or _ENDLESS, preload)) as runner,
    ):
        yield from runner.run(iter(tasks))


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM, SIGHUP and SIGQUIT end the process as an exception does: SystemExit, 128 and the signal's number.

    One that somebody has decided about keeps what was decided, as SIGHUP is ignored under nohup.
    """
    ours = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]

    def end(number: int, _: Any) -> None:
        for other in ours:
            signal.signal(other, signal.SIG_IGN)  # what is cleaned up now is cleaned up whole
        sys.exit(128 + number)

    try:
        for number in ours:
            signal.signal(number, end)
    except ValueError:  # not the main thread's to decide
        yield
        return
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@dataclass
class _Running:
    """A task in its process."""

    task: Task
    process: BaseProcess
    told: Connection
    scratch: Path
    started: float
    limit: float

    @property
    def number(self) -> int:
        return self.task.number

    def kill(self) -> None:
        """Kill the process, and what it started, for good."""
        if self.process.is_alive():
            self.process.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join(_PATIENCE)

    def messages(self) -> Iterator[Reported]:
        """What it has told by now."""
        with suppress(EOFError, OSError):
            while self.told.poll():
                yield Reported(self.number, self.told.recv_bytes().decode(errors="replace"))
            return
        self.told.close()

    def end(self, timed_out: bool) -> Ended | Died:
        """What has become of it; nothing of it is left."""
        seconds = time.monotonic() - self.started
        lost = self.process.exitcode == _LOST and _exists(self.process.pid)
        self.kill()
        self.told.close()
        try:
            if (self.scratch / VALUE).exists():
                return self._left(seconds)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        reason = self._late() if timed_out else _LOST_SERVER if lost else _death(self.process.exitcode)
        return Died(self.number, reason, seconds, _words(self.task.log), timed_out)

    def _left(self, seconds: float) -> Ended | Died:
        """What its process wrote at its end."""
        try:
            returned, value = pickle.loads((self.scratch / VALUE).read_bytes())
        except Exception as error:
            returned, value = False, f"its value cannot be read: {brief(error)}"
        return Ended(self.number, value, seconds) if returned else Died(self.number, value, seconds)

    def _late(self) -> str:
        return f"took longer than {self.limit - self.started:g} s"


def _words(log: Path | None) -> str:
    """The last words in a log, and where it is."""
    if log is None or not log.is_file() or not log.stat().st_size:
        return ""
    near = os.path.relpath(log)
    where = str(log) if near.startswith("..") else near
    with log.open("rb") as file:
        line = last_words(file)
    return f"its last line: {line}; all of them: {where}" if line else f"what it said: {where}"


def _death(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), most often for want of memory"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _exists(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


class _Runner:
    """Keeps at most `n_jobs` tasks running."""

    def __init__(self, room: Path, n_jobs: int, timeout: float, preload: Sequence[str]):
        self._room, self._n_jobs, self._timeout, self._preload = room, n_jobs, timeout, preload
        self._running: list[_Running] = []

    def run(self, tasks: Iterator[Task]) -> Iterator[Event]:
        exhausted = False
        while not exhausted or self._running:
            if not exhausted and len(self._running) < self._n_jobs:
                task = next(tasks, None)
                exhausted = task is None
                if task:
                    yield self._start(task)
            yield from self._events(block=exhausted or len(self._running) >= self._n_jobs)

    def close(self) -> None:
        """Kill what still runs."""
        while self._running:
            self._running.pop().kill()

    def _start(self, task: Task) -> Started | Died:
        place = self._room / str(task.number)
        begun = time.monotonic()
        try:
            process, told = server.start(task, place, self._preload)
        except Exception as error:
            shutil.rmtree(place, ignore_errors=True)
            cause = _LOST_START if isinstance(error, EOFError | ConnectionError) else brief(error)
            return Died(task.number, f"could not be started: {cause}", time.monotonic() - begun)
        now = time.monotonic()
        self._running.append(_Running(task, process, told, place, now, now + self._timeout))
        return Started(task.number)

    def _events(self, block: bool) -> Iterator[Event]:
        """What has happened; where nothing has, and `block` is set, wait for it."""
        if not self._running:
            return
        soonest = min(running.limit for running in self._running) - time.monotonic()
        patience = None if soonest == _ENDLESS else max(0.0, soonest)
        told = [running.told for running in self._running if not running.told.closed]
        ready = wait([running.process.sentinel for running in self._running] + told, patience if block else 0)
        for running in list(self._running):
            if running.told in ready or running.process.sentinel in ready:
                yield from running.messages()
            late = time.monotonic() > running.limit
            if running.process.sentinel in ready or late:
                self._running.remove(running)
                yield running.end(timed_out=late and running.process.sentinel not in ready)
