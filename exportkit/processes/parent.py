"""The parent's side: start tasks, no more at a time than allowed, and yield their events."""

import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from exportkit.errors import brief
from exportkit.processes import server
from exportkit.processes.child import ENDING, RESULT
from exportkit.processes.death import LOST_SERVER, Cause, Death, last_line
from exportkit.processes.events import Died, Ended, Event, Reported, Started, Task
from exportkit.processes.output import Output
from exportkit.processes.scratch import scratch

_LOST = 255  # multiprocessing's exit code of a process whose server is gone; it may also be the process's own exit code
_LOST_START = "the process that starts the others died, and did so again when it was started anew"
_KILL_SECONDS = 5.0  # how long to wait for the end of a killed process
_ENDLESS = float("inf")


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    tasks: Iterable[Task], n_jobs: int | None = None, timeout: float | None = None, preload: Sequence[str] = ()
) -> Generator[Event, None, None]:
    """Run each task in a process of its own, and yield the events of their life as they happen.

    A task has the environment, working directory and sys.path of this process. TMPDIR is a directory of its own, which is
    removed when it ends; what it started and left running is killed then, on Linux also what moved to another session. Close
    the iterator (`contextlib.closing`) if it may not be exhausted: closing it, an exception raised in it, SIGTERM, SIGHUP and
    SIGQUIT kill all tasks that still run. If this process itself is killed, its tasks end by themselves.

    Args:
        tasks: taken one by one, each when its process can be started.
        n_jobs: the number of tasks that run at a time; default: `processors()`.
        timeout: seconds that each may take; then it is killed with all that it started.
        preload: modules that the server imports before the first task; importing them must run no TensorFlow operation. This
            process has one server for its whole life, so only the first call's are imported.
    """
    with (
        terminable(),
        scratch() as directory,
        closing(_Runner(directory, n_jobs or processors(), timeout or _ENDLESS, preload)) as runner,
    ):
        yield from runner.run(iter(tasks))


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM, SIGHUP and SIGQUIT raise SystemExit with 128 plus the signal's number, so that contexts are cleaned up.

    A signal that is ignored, as SIGHUP under nohup, or that has another handler stays as it is.
    """
    ours = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]

    def end(number: int, _: Any) -> None:
        for other in ours:
            signal.signal(other, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
        sys.exit(128 + number)

    try:
        for number in ours:
            signal.signal(number, end)
    except ValueError:  # only the main thread may set handlers
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
    messages: Connection
    scratch: Path
    output: Output | None
    started: float
    limit: float

    @property
    def number(self) -> int:
        return self.task.number

    def kill(self) -> None:
        """Kill the process and all that it started; after that, its log is complete."""
        if self.process.is_alive() and sys.platform == "linux":
            self.process.terminate()  # its keeper ends all of it
            self.process.join(_KILL_SECONDS)
        if self.process.is_alive():
            self.process.kill()
        if self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join(_KILL_SECONDS)
        if self.output is not None:
            self.output.close()

    def reports(self) -> Iterator[Reported]:
        """Yield the messages that it has sent by now."""
        with suppress(EOFError, OSError):
            while self.messages.poll():
                yield Reported(self.number, self.messages.recv_bytes().decode(errors="replace"))
            return
        self.messages.close()

    def end(self, timed_out: bool) -> Ended | Died:
        """Kill what is left of it, remove its scratch, and return its last event."""
        seconds = time.monotonic() - self.started
        lost = self.process.exitcode == _LOST and _exists(self.process.pid)
        self.kill()
        self.messages.close()
        try:
            if (self.scratch / RESULT).exists():
                return self._result(seconds)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        if timed_out:
            death = Death.from_timeout(self.limit - self.started)
        else:
            death = LOST_SERVER if lost else Death.from_exit_code(self.process.exitcode or 0)
        return Died(self.number, _with_output(death, self.task.log), seconds)

    def _result(self, seconds: float) -> Ended | Died:
        """Read what its process wrote at its end."""
        try:
            returned, value = pickle.loads((self.scratch / RESULT).read_bytes())
        except Exception as error:
            returned, value = False, f"its value cannot be read: {brief(error)}"
        return Ended(self.number, value, seconds) if returned else Died(self.number, Death(Cause.FAILED, value), seconds)


def _with_output(death: Death, log: Path | None) -> Death:
    """Return `death` with the last line of the task's log, and the log's path."""
    if log is None or not log.is_file() or not log.stat().st_size:
        return death
    with log.open("rb") as file:
        return replace(death, last_line=last_line(file), output=log)


def _exists(pid: int | None) -> bool:
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


class _Runner:
    """Keeps at most `n_jobs` tasks running."""

    def __init__(self, directory: Path, n_jobs: int, timeout: float, preload: Sequence[str]):
        self._directory, self._n_jobs, self._timeout, self._preload = directory, n_jobs, timeout, preload
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
        directory = self._directory / str(task.number)
        started, output = time.monotonic(), None
        try:
            output = Output(task.log) if task.log else None
            process, messages = server.start(task, directory, self._preload, output)
        except Exception as error:
            if output is not None:
                output.close()
            shutil.rmtree(directory, ignore_errors=True)
            cause = _LOST_START if isinstance(error, EOFError | ConnectionError) else brief(error)
            return Died(task.number, Death(Cause.FAILED, f"could not be started: {cause}"), time.monotonic() - started)
        if output is not None:
            output.detach()
        now = time.monotonic()
        self._running.append(_Running(task, process, messages, directory, output, now, now + self._timeout))
        return Started(task.number)

    def _events(self, block: bool) -> Iterator[Event]:
        """Yield what has happened; wait for something to happen if `block` is set."""
        if not self._running:
            return
        soonest = min(running.limit for running in self._running) - time.monotonic()
        patience = None if soonest == _ENDLESS else max(0.0, soonest)
        connections = [running.messages for running in self._running if not running.messages.closed]
        ready = wait([*(running.process.sentinel for running in self._running), *connections], patience if block else 0)
        for running in list(self._running):
            if running.messages in ready or running.process.sentinel in ready:
                yield from running.reports()
            late = time.monotonic() > running.limit
            if running.process.sentinel in ready or late:
                self._running.remove(running)
                yield running.end(timed_out=late and running.process.sentinel not in ready)
