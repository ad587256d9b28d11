"""Tasks and their events."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exportkit.processes.death import Death


@dataclass(frozen=True)
class Task:
    """A function call that runs in a process of its own.

    Attributes:
        number: identifies the task in its events; unique in a run.
        function: importable by name, as pickle requires.
        arguments: its arguments; pickled.
        log: the file to which stdout and stderr are appended, also those of C++ code and child processes, up to a limit
            (`exportkit.processes.output`); None: those of this process are used.
        here: whether its process is a fork of this one, as it is now: it needs what this one has imported, and `function` and
            `arguments` are not pickled. This process must have one thread (`single_threaded`).
    """

    number: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    log: Path | None = None
    here: bool = False


@dataclass(frozen=True)
class Started:
    """A task's process was started."""

    number: int


@dataclass(frozen=True)
class Reported:
    """A running task sent a message with `send_message`."""

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
    """A task ended without a value: its function raised, its process died or could not be started."""

    number: int
    death: Death
    seconds: float

    def __str__(self) -> str:
        return str(self.death)


Event = Started | Reported | Ended | Died
