"""How a process ended that did not finish its work: one classification and one text, for any way of starting it."""

import os
import re
import signal
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from exportkit.errors import EnvironmentFailed, ExportKitError, Problem, StepFailed, shortened
from exportkit.printable import shown

FATAL = "Fatal Python error: "  # written by Python's faulthandler; a stack follows
OUT_OF_MEMORY = "most likely because memory ran out"  # the kernel's out-of-memory killer sends SIGKILL

_LOG_BYTES = 1 << 16
_NOISE = re.compile(r"[IWE]\d{4} |WARNING: All log messages|\*\*\*|@ ")
_CRASHES = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}  # signals that a process's own code raises


class Cause(Enum):
    """Why a process ended."""

    EXITED = "it called exit, or Python did after an uncaught exception"
    CRASHED = "its own code raised a signal, such as SIGSEGV, or SIGABRT after a failed CHECK"
    KILLED = "something else sent it a signal: the kernel, a scheduler, a user"
    TIMED_OUT = "exportkit killed it after its time limit"
    FAILED = "its work raised an exception, or it could not be started"


@dataclass(frozen=True)
class Death:
    """The end of a process that did not finish its work.

    Attributes:
        cause: the class of the end, which decides between StepFailed and EnvironmentFailed.
        reason: a verb phrase for a sentence whose subject is the process: ``died of SIGABRT``.
        last_line: the line of its output that best explains the end; may be empty.
        output: the file that holds all of its output, where a user can read it.
    """

    cause: Cause
    reason: str
    last_line: str = ""
    output: Path | None = None

    @classmethod
    def from_exit_code(cls, code: int, log: IO[bytes] | None = None) -> "Death":
        """Classify an exit code as `subprocess` and `multiprocessing` give it: minus the number of a signal."""
        return cls(*_classify(code), last_line(log) if log else "")

    @classmethod
    def from_timeout(cls, seconds: float, log: IO[bytes] | None = None) -> "Death":
        """Describe a process that was killed because it ran for `seconds`."""
        return cls(Cause.TIMED_OUT, f"took longer than {seconds:g} s", last_line(log) if log else "")

    def describe(self, timeout_key: str = "") -> str:
        """Return the whole text: the reason, the last line of output, the file with all output.

        Args:
            timeout_key: the config key of the time limit, for a user who wants to raise it.
        """
        key = f" ({timeout_key})" if timeout_key and self.cause is Cause.TIMED_OUT else ""
        line = f"its last line: {self.last_line}" if self.last_line else ""
        output = f"its output: {_relative(self.output)}" if self.output else ""
        return "; ".join(filter(None, [self.reason + key, line, output]))

    def __str__(self) -> str:
        return self.describe()

    def error(self, where: str, subject: str, after_timeout: str = "", after_crash: str = "") -> ExportKitError:
        """Return the error that reports this end.

        Args:
            where: the problem's place.
            subject: how the text begins: ``loading: the process that served it``.
            after_timeout: what to do about a process that took too long.
            after_crash: what to do about a crash.

        Returns:
            StepFailed where the work itself is the reason: it crashed, took too long, or raised an exception;
            EnvironmentFailed where the process was killed from outside or ended with an exit code.
        """
        advice = {Cause.TIMED_OUT: after_timeout, Cause.CRASHED: after_crash}.get(self.cause, "")
        if OUT_OF_MEMORY in self.reason:
            advice = "free some memory"
        outside = self.cause in (Cause.KILLED, Cause.EXITED)
        return (EnvironmentFailed if outside else StepFailed)(Problem(where, f"{subject} {self}", advice))


LOST_SERVER = Death(Cause.KILLED, f"lost the process that had started it, which was killed, {OUT_OF_MEMORY}")


def _classify(code: int) -> tuple[Cause, str]:
    if code >= 0:
        return Cause.EXITED, f"ended with exit code {code}" + (" before its work was done" if code == 0 else "")
    name = _signal_name(-code)
    if name in _CRASHES:
        return Cause.CRASHED, f"died of {name}"
    return Cause.KILLED, f"was killed by {name}" + (f", {OUT_OF_MEMORY}" if name == "SIGKILL" else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def _relative(path: Path) -> str:
    """Return a path relative to the working directory, if it is below that."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def last_line(log: IO[bytes]) -> str:
    """Return the line of a log that says why its process ended: the last fatal one, else the last that is neither noise nor a
    stack frame of faulthandler. At most 300 characters; empty where there is none. Only the last 64 KiB are read.
    """
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
    text, _, _ = shown(log.read().decode(errors="replace")).partition(FATAL)
    lines = [line.strip() for line in text.splitlines()]
    fatal = [line for line in lines if re.match(r"F\d{4} ", line)]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    return shortened(re.sub(r"^F\d{4} .*?\] ", "", (fatal or lines or [""])[-1]))
