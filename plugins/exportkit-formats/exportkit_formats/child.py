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


def call(where: str, who: str, timeout: float | None, function: str, **arguments: Any) -> Any:
    """What a function returns in a fresh process.

    Args:
        where: what it is done for, in messages.
        who: on whose behalf, in messages.
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
            raise StepFailed(Problem(where, f"{who} takes longer than {timeout:g} s", "raise the step's timeout")) from None
        if done.returncode:
            raise _death(where, who, done.returncode, _last_words(log))
    value, refusal = pickle.loads(done.stdout)
    if refusal is not None:
        what, *do = refusal
        raise StepFailed(Problem(where, f"{who} {what}", *do))
    return value


def _death(where: str, who: str, code: int, words: str) -> ExportKitError:
    said = f": {words}" if words else ""
    if code == -signal.SIGKILL:
        return EnvironmentFailed(
            Problem(where, f"{who}'s process was killed, most often for want of memory", "free some memory")
        )
    if code < 0:
        return StepFailed(Problem(where, f"{who}'s process died of {signal.Signals(-code).name}{said}"))
    return EnvironmentFailed(Problem(where, f"{who}'s process failed{said}"))


def _last_words(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - (1 << 16)))
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    return shortened(next((line for line in reversed(lines) if line), ""))
