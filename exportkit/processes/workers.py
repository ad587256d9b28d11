"""Workers: processes that run a script on pickled messages, from stdin to stdout, and share nothing with this process.

A worker is a fresh interpreter, which imports no more of exportkit than its script and `sandbox` do; or, where there is one, a
fork of the spare. It leads a process group of its own, so that all it started is killed with it, and it
ends with this process. Its first message is its sandbox.
"""

import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import IO, Any, Protocol

from exportkit.errors import Problem, StepFailed, brief
from exportkit.processes import call_worker, lifeline
from exportkit.processes.death import Cause, Death
from exportkit.processes.replies import ForgedReply, ReplyPipe, ValuesUnpickler
from exportkit.processes.sandbox import Sandbox
from exportkit.processes.scratch import scratch
from exportkit.processes.spare import CPU_ONLY, environment, fork_worker


class WorkerDied(Exception):
    """A worker ended before it had answered.

    Attributes:
        death: how it ended.
    """

    def __init__(self, death: Death):
        super().__init__(death)
        self.death = death


class _Process(Protocol):
    pid: int

    def wait(self, timeout: float | None = None) -> int: ...


_FORGED = Death(Cause.FAILED, "wrote a reply that is no value")
_lacks: list[str] = []  # what the sandboxes of this process's workers did not close


def not_sandboxed() -> str:
    """Return why the sandbox of a worker of this process is not closed, as `sandbox.enter` says it; empty if all are."""
    return "; ".join(dict.fromkeys(_lacks))


def exchange(
    script: ModuleType, messages: Iterable[Any], timeout: float | None = None, sandbox: Sandbox | None = None
) -> tuple[list[Any], Death | None]:
    """Send messages to a worker and wait for its end.

    Messages are in files without a name, not in pipes: while a worker measures its own speed, this process sleeps.

    Args:
        script: a module with a `main`, which pickles its replies to stdout.
        messages: what it unpickles from stdin.
        timeout: seconds that the worker may take.
        sandbox: the files that it may open; None: all, and the network.

    Returns:
        The replies that it wrote as a whole, and how it ended if its exit code was not 0.
    """
    with (
        _described(sandbox) as first,
        tempfile.TemporaryFile() as request,
        tempfile.TemporaryFile() as replies,
        tempfile.TemporaryFile() as log,
    ):
        for message in (first, *messages):
            pickle.dump(message, request, protocol=5)
        request.seek(0)
        death = None
        with _started(script, request, replies, log) as process:
            try:
                if code := process.wait(timeout):
                    death = Death.from_exit_code(code, log)
            except subprocess.TimeoutExpired:
                death = Death.from_timeout(timeout or 0.0, log)
        replies.seek(0)
        received: list[Any] = []
        try:
            received.extend(_unpickled(replies, _unpickler(sandbox)))
        except ForgedReply:
            death = _FORGED
        if sandbox is not None:
            _record(received[:1])
            del received[:1]
        return received, death


@contextmanager
def conversation(script: ModuleType, sandbox: Sandbox | None = None) -> Iterator["Conversation"]:
    """Start a worker that answers one message after the other; kill it when the context ends.

    Args:
        script: a module with a `main`, which pickles its replies to stdout.
        sandbox: the files that it may open; None: all, and the network.
    """
    stdin, requests = os.pipe()
    replies, stdout = os.pipe()
    with ExitStack() as ours, _described(sandbox) as first, tempfile.TemporaryFile() as log:
        send, receive = ours.enter_context(open(requests, "wb")), ours.enter_context(ReplyPipe(replies))
        with open(stdin, "rb") as request, open(stdout, "wb") as reply:
            process = ours.enter_context(_started(script, request, reply, log))
        try:
            yield Conversation(process, send, receive, log, first)
        finally:
            _kill(process)
            with suppress(BrokenPipeError):  # a message that was not read
                send.close()


class Conversation:
    """A worker that answers one message after the other; `conversation` starts one."""

    def __init__(self, process: _Process, requests: IO[bytes], replies: ReplyPipe, log: IO[bytes], sandbox: Any):
        self._process, self._requests, self._pipe, self._log = process, requests, replies, log
        self._replies = io.BufferedReader(replies)
        self._enters = sandbox is not None  # which it replies to first
        self._read = _unpickler(sandbox)
        self.send(sandbox)

    def send(self, message: Any) -> None:
        """Send a message. Where the worker is dead, the next `receive` reports that."""
        with suppress(BrokenPipeError):
            pickle.dump(message, self._requests, protocol=5)
            self._requests.flush()

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next reply.

        Args:
            timeout: seconds to wait for it; then the worker is killed.

        Raises:
            WorkerDied: it ended first.
        """
        self._pipe.expect(timeout)
        try:
            if self._enters:
                _record([self._read(self._replies).load()])
                self._enters = False
            return self._read(self._replies).load()
        except ForgedReply:
            self.kill()
            raise WorkerDied(_FORGED) from None
        except (EOFError, pickle.UnpicklingError):
            if late := self._pipe.late:
                self.kill()
            code = self._process.wait()
            death = Death.from_timeout(timeout or 0.0, self._log) if late else Death.from_exit_code(code, self._log)
            raise WorkerDied(death) from None

    def kill(self) -> None:
        """Kill the worker and all that it started."""
        _kill(self._process)


def call_apart(
    function: str | Callable[..., Any],
    /,
    *arguments: Any,
    timeout: float | None = None,
    where: str = "",
    title: str = "the call",
    **keywords: Any,
) -> Any:
    """Call a function in a process of its own, and return its value.

    The function may print, crash, take all memory or leave processes behind: this process stays as it is. What it prints is
    captured; the last line is part of the error if its process dies. Its temporary files are removed. GPUs are hidden from it
    (CUDA_VISIBLE_DEVICES=-1).

    Args:
        function: importable by name; or that name, ``package.module:function``, if only the new process shall import it.
        arguments: anything that can be pickled, as can the value.
        timeout: seconds after which its process, and all that it started, is killed.
        where: the place of problems, in messages; by default that of the step that calls.
        title: what is called, in messages.
        keywords: more arguments, by name.

    Raises:
        ExportKitError: an error of this kind that the function raised; a problem without a place is at `where`, about `title`.
        StepFailed: it raised something else, crashed, or took too long.
        EnvironmentFailed: its process was killed from outside, or ended with an exit code.
    """
    call = pickle.dumps((function, arguments, keywords), protocol=5)
    with scratch() as temporary:
        replies, death = exchange(call_worker, [(list(sys.path), str(temporary), call)], timeout)
    if death or not replies:
        raise (death or Death.from_exit_code(0)).error(where, f"{title}'s process", "raise the timeout")
    kind, content = replies[0]
    if kind == call_worker.FAILED:
        raise StepFailed(Problem(where, f"{title} {content}"))
    try:
        outcome = pickle.loads(content)
    except Exception as error:
        raise StepFailed(Problem(where, f"{title} returned a value that cannot be read: {brief(error)}")) from error
    if kind == call_worker.REFUSED:
        outcome.args = tuple(_located(problem, where, title) for problem in outcome.problems)
        raise outcome
    return outcome


def _located(problem: Problem, where: str, title: str) -> Problem:
    """Return a problem at `where`, about what is called, if it has no place of its own."""
    return problem if problem.where or not where else Problem(where, f"{title} {problem.what}", problem.do)


@contextmanager
def _described(sandbox: Sandbox | None) -> Iterator[Any]:
    """Return a worker's first message; its temporary files are removed when the context ends."""
    if sandbox is None:
        yield None
        return
    with scratch() as place:
        yield sandbox.message(place)


def _record(replies: Iterable[str]) -> None:
    _lacks.extend(reply for reply in replies if reply)


@contextmanager
def _started(script: ModuleType, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> Iterator[_Process]:
    """Start a worker; kill it and all that it started when the context ends."""
    ours, theirs = os.pipe()
    with open(theirs, "wb"):  # closed at the end of the context, or by the kernel at the end of this process
        with open(ours, "rb"):
            files = [file.fileno() for file in (stdin, stdout, stderr)]
            process = fork_worker(script.__name__, [*files, ours]) or _fresh(script, files, ours)
        try:
            yield process
        finally:
            _kill(process)
            process.wait()


def _fresh(script: ModuleType, files: list[int], descriptor: int) -> subprocess.Popen:
    command = [sys.executable, "-P", lifeline.__file__, str(descriptor), str(script.__file__)]
    stdin, stdout, stderr = files
    return subprocess.Popen(
        command,
        env={**environment(), **CPU_ONLY},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=[descriptor],
        process_group=0,
    )


def _kill(process: _Process) -> None:
    """Kill a worker and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _unpickler(sandbox: Any) -> type[pickle.Unpickler]:
    """Return what reads a worker's replies: as data alone where it is in a sandbox."""
    return pickle.Unpickler if sandbox is None else ValuesUnpickler


def _unpickled(file: IO[bytes], read: type[pickle.Unpickler]) -> Iterator[Any]:
    """Yield the messages that were written as a whole."""
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield read(file).load()
