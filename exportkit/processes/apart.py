"""One function called in a process of its own, as a step's converter needs it: it may print, crash or take all memory.

This module is also the script that the process runs; see `workers.start`.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

from exportkit.errors import EnvironmentFailed, ExportKitError, Problem, StepFailed, brief, shortened
from exportkit.processes import workers
from exportkit.processes.crash_log import last_words

T = TypeVar("T")


def call_apart(function: Callable[..., T], *arguments: Any, where: str, who: str, timeout: float | None = None) -> T:
    """Call a function in a process of its own and return what it returns.

    The process has this one's environment, working directory and sys.path, and no GPU. What the function prints is dropped,
    but for the last line if the process dies. To refuse, the function raises an error of exportkit:
    ``raise StepFailed(Problem("", "cannot carry Eigh", "end the signature before it"))``.

    Args:
        function: importable by its name, as pickle wants it: no lambda, and not of ``__main__``.
        arguments: what it is called with; they and the value are pickled. `functools.partial` gives it keywords.
        where: what it is called for, such as ``signatures.serving_default``: the place of problems that have none.
        who: on whose behalf, such as ``ONNX``: a problem without a place is reported of it.
        timeout: seconds, after which the process is killed; None for no limit.

    Raises:
        ExportKitError: the function raised it; it has the class that it had there.
        StepFailed: it raised anything else, crashed, or took too long.
        EnvironmentFailed: the process was killed from outside, or cannot be started.
    """
    request = list(sys.path), pickle.dumps((function, arguments), protocol=5)
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered, tempfile.TemporaryFile() as log:
        pickle.dump(request, asked, protocol=5)
        asked.seek(0)
        process = workers.start(sys.modules[__name__], asked, answered, log)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise StepFailed(Problem(where, f"{who} takes longer than {timeout:g} s", "raise the step's timeout")) from None
        finally:
            process.kill()
            process.wait()
        if code:
            raise _death(where, who, code, shortened(last_words(log)))
        answered.seek(0)
        outcome: tuple[T, ExportKitError | None] = pickle.load(answered)
    value, error = outcome
    if error is not None:
        raise type(error)(*(problem if problem.where else _placed(problem, where, who) for problem in error.problems))
    return value


def _placed(problem: Problem, where: str, who: str) -> Problem:
    return Problem(where, f"{who} {problem.what}", problem.do)


def _death(where: str, who: str, code: int, words: str) -> ExportKitError:
    reason = f": {words}" if words else ""
    if code == -signal.SIGKILL:
        what = f"{who}'s process was killed, most often for want of memory"
        return EnvironmentFailed(Problem(where, what, "free some memory"))
    if code < 0:
        return StepFailed(Problem(where, f"{who}'s process died of {signal.Signals(-code).name}{reason}"))
    return EnvironmentFailed(Problem(where, f"{who}'s process failed{reason}"))


def main() -> None:
    """Read a call from stdin and write ``(value, error)`` to stdout; what the function prints goes to stderr."""
    reply = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    path, call = pickle.load(sys.stdin.buffer)
    sys.path[:] = path
    with reply:
        reply.write(_answer(call))


def _answer(call: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(call)
        return pickle.dumps((function(*arguments), None), protocol=5)
    except ExportKitError as refusal:
        return pickle.dumps((None, refusal), protocol=5)
    except Exception as cause:
        return pickle.dumps((None, StepFailed(Problem("", f"fails: {brief(cause)}"))), protocol=5)


if __name__ == "__main__":
    main()
