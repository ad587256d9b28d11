"""One version in a process of its own, which many threads ask at the same time."""

import itertools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from exportkit.core import concurrent_worker
from exportkit.processes import Death, Sandbox, WorkerDied, conversation
from exportkit.protos import config_pb2
from exportkit.server.status import Status

GRACE = 2.0  # seconds, beyond the limit of a run, after which a process that does not stop it is killed
_STOPPED = WorkerDied(Death.from_exit_code(-9))


class Overdue(Exception):
    """A run did not end in time, and its process was killed."""


class Worker:
    """A process that has loaded a version; it is stopped by `stop`.

    Args:
        directory: the version.
        message: what has the process load it (`exportkit.serving.loading.loadable`).
        timeout: seconds that the load may take.

    Raises:
        Status: it does not load.
        WorkerDied: the load killed the process.
    """

    def __init__(self, directory: Path, message: Any, timeout: float | None = None):
        self._open = ExitStack()
        self._waiting: dict[int, Future] = {}
        self._numbers, self._sending, self._lock = itertools.count(), threading.Lock(), threading.Lock()
        self._end: WorkerDied | None = None
        self._conversation = self._open.enter_context(conversation(concurrent_worker, Sandbox([directory])))
        try:
            self._conversation.send(message)
            _, error = self._conversation.receive(timeout)
        except BaseException:
            self._open.close()
            raise
        if error:
            self._open.close()
            raise Status(*error)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float) -> list[np.ndarray]:
        """Run the graph once, by tensor names.

        Args:
            timeout: seconds that it may take.

        Raises:
            Status: TensorFlow's error.
            WorkerDied: the process died before it had answered, maybe of another run.
            Overdue: it took too long, and nothing but killing the process could stop it.
        """
        number, future = next(self._numbers), Future[Any]()
        with self._lock:
            if self._end:
                raise self._end
            self._waiting[number] = future
        options = config_pb2.RunOptions(timeout_in_ms=max(1, int(timeout * 1000))).SerializeToString()
        with self._sending:
            self._conversation.send((number, dict(feeds), list(fetches), options))
        try:
            values, error = future.result(timeout + GRACE)
        except TimeoutError:
            self._conversation.kill()
            raise Overdue from None
        if error:
            raise Status(*error)
        return values

    @property
    def dead(self) -> bool:
        """Whether the process has ended."""
        return self._end is not None

    def stop(self) -> None:
        """Kill the process."""
        self._conversation.kill()
        self._reader.join()
        self._open.close()

    def _read(self) -> None:
        """Hand each reply to the thread that waits for it, until the process ends."""
        try:
            while True:
                number, values, error = self._conversation.receive()
                if future := self._waiting.pop(number, None):
                    future.set_result((values, error))
        except WorkerDied as end:
            died = end
        except Exception:  # a reply that is none of ours: the graph writes to the pipe
            self._conversation.kill()
            died = _STOPPED
        with self._lock:
            self._end = died
        for future in self._waiting.values():
            future.set_exception(died)
        self._waiting.clear()
