"""Calls into a process of its own: a converter may print, crash or take all memory, and it leaves this process alone."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from typing import IO, Any

from exportkit.errors import EnvironmentFailed, ExportKitError, Problem, StepFailed, shortened

WORKER = "exportkit_formats.worker"


def call(where: str, timeout: float | None, function: str, **arguments: Any) -> Any:
    """What a function returns in a fresh process.

    Args:
        where: what it is done for, for messages.
        timeout: seconds after which the process is killed.
        function: ``package.module:function``.
        arguments: plain data.

    Raises:
        StepFailed: it refused, crashed or took too long.
        EnvironmentFailed: the process was killed from outside, or cannot be started.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-P", "-m", WORKER]
    request = pickle.dumps((function, arguments), protocol=5)
    with tempfile.TemporaryFile() as log:
        try:
            done = subprocess.run(command, input=request, stdout=subprocess.PIPE, stderr=log, env=environment, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise StepFailed(Problem(where, f"did not end within {timeout:g} s", "raise the step's timeout")) from None
        if done.returncode:
            raise _death(where, done.returncode, _last_words(log))
    value, refusal = pickle.loads(done.stdout)
    if refusal is not None:
        raise StepFailed(Problem(where, *refusal))
    return value


def _death(where: str, code: int, words: str) -> ExportKitError:
    said = f": {words}" if words else ""
    if code == -signal.SIGKILL:
        return EnvironmentFailed(Problem(where, "the process was killed, most often for want of memory", "free some memory"))
    if code < 0:
        return StepFailed(Problem(where, f"the process died of {signal.Signals(-code).name}{said}"))
    return EnvironmentFailed(Problem(where, f"the process failed{said}"))


def _last_words(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - (1 << 16)))
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    return shortened(next((line for line in reversed(lines) if line), ""))
