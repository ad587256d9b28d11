"""What is run, and what becomes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """A call to be made in a process of its own.

    Attributes:
        number: what its events call it by; of a run's tasks each has another.
        function: importable, as pickle wants it.
        arguments: what it is called with; pickled.
        log: the file to which its stdout and stderr are appended, those of C++ and of its children too; None: this process's.
    """

    number: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    log: Path | None = None


@dataclass(frozen=True)
class Started:
    """A task's process was started."""

    number: int


@dataclass(frozen=True)
class Told:
    """A running task told something by `tell`."""

    number: int
    text: str


@dataclass(frozen=True)
class Ended:
    """A task's function returned `value`."""

    number: int
    value: Any
    seconds: float


@dataclass(frozen=True)
class Died:
    """A task came to no value.

    Attributes:
        reason: why, on one line.
        words: the last line of its log, and where that is; empty where it has none.
        timed_out: whether it was killed because it took too long.
    """

    number: int
    reason: str
    seconds: float
    words: str = ""
    timed_out: bool = False

    def __str__(self) -> str:
        return "; ".join(filter(None, [self.reason, self.words]))


Event = Started | Told | Ended | Died
