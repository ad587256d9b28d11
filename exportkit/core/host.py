"""A process of TensorFlow's C++ core that does one job after the other, so that each finds it warm: a start costs 0.1 s.

Each session is a new one, with variables, tables and generators of its own; the last one is freed before the next is made.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from exportkit.core import worker as core_worker
from exportkit.processes import Sandbox, WorkerDied, conversation

if TYPE_CHECKING:
    from exportkit.processes.workers import Conversation

Reply = tuple[Any, float, tuple[str, str] | None]  # a value, seconds, and the code and message of an error


class Host:
    """A process that starts when it is first called, and again after it died; a context manager that ends it.

    Attributes:
        sandbox: what the process may open.
        holder: whose session it has; None: nobody's.
        last: whose session it had last.
    """

    def __init__(self, sandbox: Sandbox):
        self.sandbox = sandbox
        self.holder: object = None
        self.last: object = None
        self._worker: Conversation | None = None
        self._killed = False
        self._open = ExitStack()

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, name: str, *arguments: Any, timeout: float | None = None) -> Reply:
        """Return the reply to a message of `exportkit.core.worker`.

        Args:
            timeout: seconds to wait for it; then the process is killed.

        Raises:
            WorkerDied: the process died of it.
        """
        if self._killed:
            self.stop()
        if self._worker is None:
            self._worker = self._open.enter_context(conversation(core_worker, self.sandbox))
        self._worker.send((name, arguments))
        try:
            return self._worker.receive(timeout)
        except WorkerDied:
            self.stop()
            raise

    def kill(self) -> None:
        """Kill the process, if there is one, and do not wait for its end; a thread that waits for its reply gets WorkerDied.

        The next call starts another one.
        """
        if (worker := self._worker) is not None:
            self._killed, self.holder = True, None
            worker.kill()

    def stop(self) -> None:
        """End the process, if there is one."""
        self._worker = self.holder = None
        self._killed = False
        self._open.close()
